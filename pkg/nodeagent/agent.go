package nodeagent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
)

// Mounter says which volumes are mounted here. mounter.Client is one.
type Mounter interface {
	// List returns all volumes of the mounter, without their conditions.
	List(ctx context.Context) ([]mounter.Info, error)
	// Health asks the mount server of one volume.
	Health(ctx context.Context, volume string) (mounter.Info, error)
}

// Options configure New.
type Options struct {
	// Node is this node's name.
	Node string
	// Config is how to reach the API server, as this node.
	Config *rest.Config
	// Mounter is the one of this node, Control where its mount servers listen.
	Mounter Mounter
	Control func(volume string) control.Client
	// Attachments says that volumes move: which is this node's the operator says after it was attached. Nobody waits for that to use it.
	Attachments bool
	// HealthInterval is how often volumes are looked at, ReportInterval how often what changes all the time is reported. Defaults: 5 s and 30 s.
	HealthInterval, ReportInterval time.Duration
	// Log gets what can not be reported. Default: slog.Default.
	Log *slog.Logger
}

// field selectors of SealedVolumes.
const (
	fieldNode   = "spec.nodeName"
	fieldHandle = "spec.volumeHandle"
)

// Timeouts. A mount server answers from memory, but for an anchor it commits.
const (
	askTimeout     = 5 * time.Second
	anchorTimeout  = 10 * time.Second
	publishTimeout = 10 * time.Second
)

// silentPasses is how often in a row the mounter may not answer, as while it starts, before the health
// that was seen last counts no longer.
const silentPasses = 3

// atOnce bounds how many volumes are looked at together.
const atOnce = 8

// Agent reports on the volumes of one node.
type Agent struct {
	opt    Options
	cache  cache.Cache
	live   client.Client
	events events.EventRecorder
	stop   func() // of the events
	kick   chan struct{}
	left   atomic.Bool // the agent stops: nobody watches what it reports
	silent int         // passes in a row in which the mounter did not answer

	mu      sync.Mutex
	volumes map[string]*volume // by id; guarded by mu
}

// New prepares an agent; Run makes it work.
func New(opt Options) (*Agent, error) {
	if opt.Node == "" || opt.Config == nil || opt.Mounter == nil || opt.Control == nil {
		return nil, errors.New("node agent: options are missing")
	}
	if opt.HealthInterval == 0 {
		opt.HealthInterval = 5 * time.Second
	}
	if opt.ReportInterval == 0 {
		opt.ReportInterval = 30 * time.Second
	}
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	s := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(s), v1alpha1.AddToScheme(s)); err != nil {
		return nil, err
	}
	a := &Agent{opt: opt, kick: make(chan struct{}, 1), volumes: map[string]*volume{}}
	var err error
	// Known beforehand: an API server that is down keeps no node plugin from starting.
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(v1alpha1.GroupVersion.WithKind("SealedVolume"), meta.RESTScopeRoot)
	if a.live, err = client.New(opt.Config, client.Options{Scheme: s, Mapper: mapper}); err != nil {
		return nil, err
	}
	a.cache, err = cache.New(opt.Config, cache.Options{Scheme: s, Mapper: mapper, DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{&v1alpha1.SealedVolume{}: {Field: fields.OneTermEqualSelector(fieldNode, opt.Node)}}})
	if err != nil {
		return nil, err
	}
	set, err := kubernetes.NewForConfig(opt.Config)
	if err != nil {
		return nil, err
	}
	b := events.NewBroadcaster(&events.EventSinkImpl{Interface: set.EventsV1()})
	a.events, a.stop = b.NewRecorder(s, "sealvol-node"), b.Shutdown
	return a, b.StartRecordingToSinkWithContext(context.Background())
}

// Run reports until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	defer a.stop()
	// What a SealedVolume's node has to report may have waited for its existence.
	inf, err := a.cache.GetInformer(ctx, &v1alpha1.SealedVolume{}, cache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	if err := a.cache.IndexField(ctx, &v1alpha1.SealedVolume{}, fieldHandle, handleOf); err != nil {
		return err
	}
	if _, err := inf.AddEventHandler(added(a.look)); err != nil {
		return err
	}
	var g errgroup.Group
	cacheCtx, stopCache := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCache()
	g.Go(func() error { return a.cache.Start(cacheCtx) })
	g.Go(func() error {
		defer stopCache()
		err := a.loop(ctx)
		a.leave(context.WithoutCancel(ctx))
		return err
	})
	return g.Wait()
}

// leaveTimeout bounds how long the agent takes to say that it stops; less than a pod has for that.
const leaveTimeout = 10 * time.Second

// leave says of the volumes of this node that nobody watches them any more. The next agent reports
// on them anew, seconds later where the plugin is upgraded. It is best effort: an agent that is
// killed, or that has lost its rights because Sealvol is uninstalled (the chart's hook then says it),
// can not.
func (a *Agent) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	a.left.Store(true)
	a.reportAll(ctx, state{mounted: true})
}

// reportAll reports one state of all volumes that are said to be mounted on this node.
func (a *Agent) reportAll(ctx context.Context, s state) {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, id := range a.others(ctx, nil) {
		g.Go(func() error {
			v := a.volume(id)
			v.mu.Lock()
			defer v.mu.Unlock()
			if err := a.publish(ctx, id, v, s, false); err != nil {
				a.opt.Log.Warn("a volume's state is not reported", "volume", id, "error", err)
			}
			return nil
		})
	}
	_ = g.Wait() // none fails
}

func (a *Agent) loop(ctx context.Context) error {
	if !a.cache.WaitForCacheSync(ctx) {
		return nil // it ended before the API server answered
	}
	health := time.NewTicker(a.opt.HealthInterval)
	defer health.Stop()
	for {
		a.pass(ctx)
		select {
		case <-health.C:
		case <-a.kick:
		case <-ctx.Done():
			return nil
		}
	}
}

// look has the volumes looked at soon.
func (a *Agent) look() {
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

// pass looks at all volumes once.
func (a *Agent) pass(ctx context.Context) {
	listCtx, cancel := context.WithTimeout(ctx, askTimeout)
	list, err := a.opt.Mounter.List(listCtx)
	cancel()
	if err != nil { // the volumes' health is not known to be bad: the node service says that the mounter does not answer
		a.opt.Log.Warn("the mounter does not answer", "error", err)
		if a.silent++; a.silent >= silentPasses {
			a.reportAll(ctx, unresponsive)
		}
		return
	}
	a.silent = 0
	here := map[string]bool{}
	for _, i := range list {
		here[i.Volume] = true
	}
	for _, id := range a.others(ctx, here) {
		here[id] = false
	}
	var g errgroup.Group
	g.SetLimit(atOnce)
	for id, mounted := range here {
		g.Go(func() error {
			a.report(ctx, id, mounted)
			return nil
		})
	}
	_ = g.Wait() // none fails: what can not be reported is logged and tried again
}

// others are volumes that are not mounted but are said to be, or were.
func (a *Agent) others(ctx context.Context, here map[string]bool) []string {
	var ids []string
	a.mu.Lock()
	for id := range a.volumes {
		if !here[id] {
			ids = append(ids, id)
		}
	}
	a.mu.Unlock()
	var list v1alpha1.SealedVolumeList
	if err := a.cache.List(ctx, &list); err != nil {
		a.opt.Log.Warn("SealedVolumes of this node can not be listed", "error", err)
		return ids
	}
	for i := range list.Items {
		if sv := &list.Items[i]; !here[sv.Spec.VolumeHandle] && sv.Status.Node == a.opt.Node {
			ids = append(ids, sv.Spec.VolumeHandle)
		}
	}
	return ids
}

// volume returns what is known of a volume.
func (a *Agent) volume(id string) *volume {
	a.mu.Lock()
	defer a.mu.Unlock()
	v := a.volumes[id]
	if v == nil {
		v = &volume{}
		a.volumes[id] = v
	}
	return v
}

// forget drops a volume of which nothing is left to report.
func (a *Agent) forget(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.volumes, id)
}

// report looks at one volume and writes what has changed.
func (a *Agent) report(ctx context.Context, id string, mounted bool) {
	v := a.volume(id)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.unstaging && mounted {
		return // it is looked at by who unstages it
	}
	now := time.Now()
	full := now.Sub(v.reported) >= a.opt.ReportInterval
	state := state{mounted: mounted}
	if mounted {
		state = a.observe(ctx, id, v, full)
	}
	err := a.publish(ctx, id, v, state, full)
	switch {
	case err != nil && ctx.Err() == nil:
		if v.failed != err.Error() { // not each time
			a.opt.Log.Warn("a volume's state is not reported", "volume", id, "error", err)
		}
		v.failed = err.Error()
	case err == nil:
		v.failed = ""
		if full {
			v.reported = now
		}
		if !mounted {
			a.forget(id)
		}
	}
}

// errNoVolume: the API has no SealedVolume with that handle for this node.
var errNoVolume = errors.New("there is no SealedVolume of it for this node")

// find returns the SealedVolume of a volume of this node, from the cache or the API server itself.
func (a *Agent) find(ctx context.Context, r client.Reader, id string) (*v1alpha1.SealedVolume, error) {
	return a.findAt(ctx, r, id, false)
}

// findAt returns that of a volume of any node, if it may be.
func (a *Agent) findAt(ctx context.Context, r client.Reader, id string, anywhere bool) (*v1alpha1.SealedVolume, error) {
	var list v1alpha1.SealedVolumeList
	if err := r.List(ctx, &list, client.MatchingFields{fieldHandle: id}); err != nil {
		return nil, fmt.Errorf("find the SealedVolume: %w", err)
	}
	var newest *v1alpha1.SealedVolume
	for i := range list.Items {
		// Of a volume that has had another name before, those that have a PersistentVolume now; of these the one with the newest anchor: the volume forgets old ones.
		sv := &list.Items[i]
		if (anywhere || sv.Spec.NodeName == a.opt.Node) && sv.Status.Phase != v1alpha1.PhaseRetained && sv.Status.Phase != v1alpha1.PhaseDeleted && (newest == nil || isNewer(sv, newest)) {
			newest = sv
		}
	}
	if newest == nil {
		return nil, errNoVolume
	}
	return newest, nil
}

// isNewer tells which of two SealedVolumes of one volume counts.
func isNewer(x, y *v1alpha1.SealedVolume) bool {
	of := func(sv *v1alpha1.SealedVolume) (generation, epoch int64) {
		if sv.Status.Anchor == nil {
			return 0, 0
		}
		return sv.Status.Anchor.Generation, sv.Status.Anchor.Epoch
	}
	gx, ex := of(x)
	gy, ey := of(y)
	return cmp.Or(cmp.Compare(gx, gy), cmp.Compare(ex, ey), -cmp.Compare(x.Name, y.Name)) > 0
}

func handleOf(o client.Object) []string {
	if sv, ok := o.(*v1alpha1.SealedVolume); ok && sv.Spec.VolumeHandle != "" {
		return []string{sv.Spec.VolumeHandle}
	}
	return nil
}

// claimOf is who is told in events; nil if nobody is.
func claimOf(sv *v1alpha1.SealedVolume) *corev1.ObjectReference {
	c := sv.Spec.ClaimRef
	if c == nil {
		return nil
	}
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: c.Namespace, Name: c.Name, UID: typesUID(c.UID)}
}
