package nodeagent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
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

// Mounter knows which volumes are mounted on this node. mounter.Client implements it.
type Mounter interface {
	// List returns the volumes of the mounter, whether or not their mount servers run.
	List(ctx context.Context) ([]mounter.Info, error)
	// Health returns a volume's state in bounded time, or mounter.ErrNotMounted.
	Health(ctx context.Context, volume string) (mounter.Info, error)
}

// Options configure New.
type Options struct {
	// Node is this node's name.
	Node string
	// Config is the access to the API server, with the rights of this node.
	Config *rest.Config
	// Mounter is the mounter of this node. Control returns the control socket of a volume's mount
	// server.
	Mounter Mounter
	Control func(volume string) control.Client
	// Attachments says that volumes can move between nodes. The operator then writes to which node
	// a volume belongs after it was attached, but the volume may be used before that.
	Attachments bool
	// HealthInterval is how often volumes are checked, and ReportInterval how often values that
	// always change are reported. Defaults: 5 s and 30 s.
	HealthInterval, ReportInterval time.Duration
	// Log gets what cannot be reported. Default: slog.Default.
	Log *slog.Logger
}

// These are field selectors of SealedVolumes.
const (
	fieldNode   = "spec.nodeName"
	fieldHandle = "spec.volumeHandle"
)

// Timeouts. A mount server answers from memory, except that it commits for an anchor.
const (
	askTimeout     = 5 * time.Second
	anchorTimeout  = 10 * time.Second
	publishTimeout = 10 * time.Second
)

// silentPasses is how many times in a row the mounter may fail to answer, as while it starts,
// before the last known health no longer counts.
const silentPasses = 3

// atOnce is how many volumes are checked concurrently.
const atOnce = 8

// Agent reports on the volumes of one node.
type Agent struct {
	opt    Options
	cache  cache.Cache
	live   client.Client
	events events.EventRecorder
	stop   func() // of the events
	kick   chan struct{}
	left   atomic.Bool // the agent stops, so nothing updates what it reports any more
	silent int         // in how many passes in a row the mounter did not answer

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
	// A fixed mapping needs no discovery, so the node plugin starts even if the API server is down.
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
	// A SealedVolume may be created after the node has something to report about it.
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

// look triggers a check of all volumes.
func (a *Agent) look() {
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

// pass checks all volumes once.
func (a *Agent) pass(ctx context.Context) {
	listCtx, cancel := context.WithTimeout(ctx, askTimeout)
	list, err := a.opt.Mounter.List(listCtx)
	cancel()
	if err != nil { // the health of the volumes is unknown, not bad; the node service reports that the mounter does not answer
		a.opt.Log.Warn("the mounter does not answer: the health of this node's volumes is unknown", "error", err)
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
	for id := range a.others(ctx, here) {
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
	_ = g.Wait() // no function returns an error: what cannot be reported is logged and retried
}

// others returns volumes that are not mounted but are reported as mounted, or were mounted before;
// each of them once.
func (a *Agent) others(ctx context.Context, here map[string]bool) map[string]bool {
	ids := map[string]bool{}
	a.mu.Lock()
	for id := range a.volumes {
		if !here[id] {
			ids[id] = true
		}
	}
	a.mu.Unlock()
	var list v1alpha1.SealedVolumeList
	if err := a.cache.List(ctx, &list); err != nil {
		a.opt.Log.Warn("cannot list the SealedVolumes of this node", "error", err)
		return ids
	}
	for i := range list.Items {
		if sv := &list.Items[i]; !here[sv.Spec.VolumeHandle] && sv.Status.Node == a.opt.Node {
			ids[sv.Spec.VolumeHandle] = true
		}
	}
	return ids
}

// volume returns the agent's entry for a volume.
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

// forget drops a volume when nothing is left to report.
func (a *Agent) forget(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.volumes, id)
}

// report checks one volume and writes what has changed.
func (a *Agent) report(ctx context.Context, id string, mounted bool) {
	v := a.volume(id)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.unstaging && mounted {
		return // unstaging reports on it
	}
	now := time.Now()
	full := now.Sub(v.reported) >= a.opt.ReportInterval
	state := state{mounted: mounted}
	if mounted {
		state = a.observe(ctx, id, v, full)
		state.assumed = false // the mounter has just listed it
	}
	err := a.publish(ctx, id, v, state, full)
	switch {
	case err != nil && ctx.Err() == nil:
		if v.failed != err.Error() { // not in each pass
			a.opt.Log.Warn("cannot report the state of the volume", "volume", id, "error", err)
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
