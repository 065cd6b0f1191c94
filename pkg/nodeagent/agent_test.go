package nodeagent_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/nodeagent"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

var env *operatortest.Env

func TestMain(m *testing.M) {
	operatortest.Main(m, func(e *operatortest.Env) { env = e }, func() error { return nil })
}

// node is a machine with a mounter, which only answers, and real mount servers without mounts.
type node struct {
	name string
	dir  string
	mu   sync.Mutex
	vols map[string]*mounter.Info // guarded by mu
}

// List implements nodeagent.Mounter.
func (n *node) List(context.Context) ([]mounter.Info, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []mounter.Info
	for _, i := range n.vols {
		list = append(list, *i)
	}
	return list, nil
}

// Health implements nodeagent.Mounter.
func (n *node) Health(_ context.Context, id string) (mounter.Info, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i, ok := n.vols[id]; ok {
		return *i, nil
	}
	return mounter.Info{}, mounter.ErrNotMounted
}

func (n *node) set(id string, i *mounter.Info) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i == nil {
		delete(n.vols, id)
		return
	}
	n.vols[id] = i
}

func (n *node) control(id string) control.Client {
	return control.Client{Path: filepath.Join(n.dir, id)}
}

// start runs an agent with the rights that the chart gives to the node plugin.
func start(t *testing.T, name string, change ...func(*nodeagent.Options)) (*node, *nodeagent.Agent) {
	t.Helper()
	c, err := env.As(t.Context(), "node", name)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{name: name, dir: t.TempDir(), vols: map[string]*mounter.Info{}}
	o := nodeagent.Options{Node: name, Config: c, Mounter: n, Control: n.control, HealthInterval: 100 * time.Millisecond,
		ReportInterval: 300 * time.Millisecond, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil))}
	for _, f := range change {
		f(&o)
	}
	a, err := nodeagent.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return n, a
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// sealed creates a SealedVolume as the operator would.
func sealed(t *testing.T, node string) *v1alpha1.SealedVolume {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "tenant-"}}
	if err := env.Client.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	c := operatortest.Claim(ns.Name, "data")
	if err := env.Client.Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	sv := &v1alpha1.SealedVolume{ObjectMeta: metav1.ObjectMeta{Name: "pvc-" + string(c.UID)}, Spec: v1alpha1.SealedVolumeSpec{
		VolumeHandle: "vol-" + string(c.UID), NodeName: node, ClaimRef: &v1alpha1.VolumeClaim{Namespace: c.Namespace, Name: c.Name, UID: string(c.UID)}}}
	if err := env.Client.Create(t.Context(), sv); err != nil {
		t.Fatal(err)
	}
	return sv
}

func credential(t *testing.T) volume.Key {
	t.Helper()
	k, err := crypto.ParseKeyFile([]byte(strings.Repeat("a", 32)))
	if err != nil {
		t.Fatal(err)
	}
	c := crypto.SecretCredential(k)
	t.Cleanup(c.Erase)
	return volume.Key{Recipient: c, Credential: c}
}

// serve opens a volume and answers for it at the node's control socket; end closes it.
func (n *node) serve(t *testing.T, dev device.Device, id string, a *volume.Anchor) (v *volume.Volume, end func()) {
	t.Helper()
	v, err := volume.Open(dev, volume.Options{Credential: credential(t).Credential, Anchor: a})
	if err != nil {
		t.Fatal(err)
	}
	l, err := control.Listen(n.control(id).Path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- control.Serve(ctx, l, (&volumectl.Server{Volume: v, Name: id}).Mux()) }()
	n.set(id, &mounter.Info{Volume: id, Alive: true})
	return v, sync.OnceFunc(func() {
		n.set(id, nil)
		cancel()
		if err := errors.Join(<-done, v.Close()); err != nil {
			t.Error(err)
		}
	})
}

func await(t *testing.T, sv *v1alpha1.SealedVolume, what string, ok func(s v1alpha1.SealedVolumeStatus) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := env.Client.Get(ctx, client.ObjectKeyFromObject(sv), sv); err == nil && ok(sv.Status) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: in vain, %+v", what, sv.Status)
		}
	}
}

func healthy(s v1alpha1.SealedVolumeStatus) bool {
	return s.Health == v1alpha1.HealthHealthy && meta.IsStatusConditionTrue(s.Conditions, v1alpha1.VolumeHealthy)
}

func anchorOf(t *testing.T, a *nodeagent.Agent, id string) *volume.Anchor {
	t.Helper()
	s, err := a.Anchor(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if s == "" {
		return nil
	}
	var x volume.Anchor
	if err := json.Unmarshal([]byte(s), &x); err != nil {
		t.Fatal(err)
	}
	return &x
}

// TestLife: a volume is staged, written to and unstaged. From then on, an older state of its device
// is refused.
func TestLife(t *testing.T) {
	n, a := start(t, "node-a")
	sv := sealed(t, "node-a")
	id := sv.Spec.VolumeHandle
	dev := device.NewMem(80 << 20)
	if err := volume.Format(dev, volume.FormatOptions{Recipient: credential(t).Recipient}); err != nil {
		t.Fatal(err)
	}
	if x := anchorOf(t, a, id); x != nil {
		t.Fatalf("an anchor of a volume that was never mounted: %+v", x)
	}
	v, end := n.serve(t, dev, id, nil)
	defer end()
	a.Staged(id)
	await(t, sv, "staged", func(s v1alpha1.SealedVolumeStatus) bool {
		return s.Node == "node-a" && healthy(s) && s.Usage != nil && s.Usage.TotalBytes > 0 && s.Anchor != nil && s.ReportedAt != nil
	})
	if !strings.Contains(sv.Status.Usage.Summary, "MiB") {
		t.Error(sv.Status.Usage.Summary)
	}
	first := sv.Status.Anchor.Generation
	old := dev.Clone()
	if _, err := v.Mkdir(&vfs.Req{}, vfs.RootIno, "directory", 0o700); err != nil {
		t.Fatal(err)
	}
	await(t, sv, "changed", func(s v1alpha1.SealedVolumeStatus) bool { return s.Anchor.Generation > first })
	a.Unstaging(t.Context(), id)
	last := anchorOf(t, a, id)
	end()
	a.Unstaged(id)
	await(t, sv, "unstaged", func(s v1alpha1.SealedVolumeStatus) bool { return s.Node == "" && s.Health == "" && s.Usage != nil })

	if _, err := volume.Open(old, volume.Options{Credential: credential(t).Credential, Anchor: last}); !errors.Is(err, volume.ErrRolledBack) {
		t.Fatalf("an older state: %v", err)
	}
	_, end = n.serve(t, dev, id, last)
	defer end()
	a.Staged(id)
	await(t, sv, "staged again", func(s v1alpha1.SealedVolumeStatus) bool { return s.Node == "node-a" && healthy(s) })
	end()
}

// event waits for an event about a volume's claim.
func event(t *testing.T, sv *v1alpha1.SealedVolume, kind, reason string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		list := events(t, sv)
		for _, e := range list {
			if e.Reason == reason && e.Type == kind {
				return e.Note
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("no event %s %s: %+v", kind, reason, list)
		}
	}
}

// TestHealth: problems are in the status at once, and in an event where the volume's user looks.
func TestHealth(t *testing.T) {
	n, _ := start(t, "node-a")
	sv := sealed(t, "node-a")
	id := sv.Spec.VolumeHandle
	for _, c := range []struct {
		health v1alpha1.Health
		reason string
		info   mounter.Info
	}{
		{v1alpha1.HealthInaccessible, "MountServerDead", mounter.Info{Conditions: []control.Condition{{Inaccessible: true, Reason: "MountServerDead", Message: "it has died"}}}},
		{v1alpha1.HealthDataLoss, "Broken", mounter.Info{Conditions: []control.Condition{{Reason: "Sick"}, {Lost: true, Reason: "Broken", Message: "a sector is gone"}}}},
		{v1alpha1.HealthDegraded, "VolumeFailed", mounter.Info{Conditions: []control.Condition{{Reason: "VolumeFailed", Message: "read-only"}}}},
	} {
		c.info.Volume = id
		n.set(id, &c.info)
		await(t, sv, c.reason, func(s v1alpha1.SealedVolumeStatus) bool {
			x := meta.FindStatusCondition(s.Conditions, v1alpha1.VolumeHealthy)
			return s.Health == c.health && x != nil && x.Status == metav1.ConditionFalse && x.Reason == c.reason
		})
		if note := event(t, sv, corev1.EventTypeWarning, c.reason); !strings.Contains(note, "node-a") || !strings.Contains(note, sv.Name) {
			t.Error(note)
		}
	}
	n.set(id, &mounter.Info{Volume: id, Alive: true})
	await(t, sv, "healthy", healthy)
	event(t, sv, corev1.EventTypeNormal, "VolumeHealthy")
}

// TestRemounted: if a server died and was replaced before the agent looked, there is an event,
// because containers must be restarted.
func TestRemounted(t *testing.T) {
	n, a := start(t, "node-a")
	sv := sealed(t, "node-a")
	id := sv.Spec.VolumeHandle
	n.set(id, &mounter.Info{Volume: id, Alive: true})
	await(t, sv, "healthy", healthy)
	a.Remounted(id)
	if note := event(t, sv, corev1.EventTypeWarning, "Remounted"); !strings.Contains(note, "node-a") || !strings.Contains(note, "restart the containers") {
		t.Error(note)
	}
}

// TestNearlyFull: a volume that is nearly full is reported.
func TestNearlyFull(t *testing.T) {
	n, _ := start(t, "node-a")
	sv := sealed(t, "node-a")
	id := sv.Spec.VolumeHandle
	l, err := control.Listen(n.control(id).Path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	mux := control.Mux{"stats": func(context.Context, *control.Call) (any, error) {
		return control.Stats{TotalBytes: 100 << 30, UsedBytes: 96 << 30, AvailableBytes: 4 << 30}, nil
	}}
	go func() { done <- control.Serve(ctx, l, mux) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	n.set(id, &mounter.Info{Volume: id, Alive: true})
	await(t, sv, "nearly full", func(s v1alpha1.SealedVolumeStatus) bool {
		return s.Health == v1alpha1.HealthDegraded && s.Usage != nil && s.Usage.Summary == "96GiB/100GiB (96%)"
	})
	event(t, sv, corev1.EventTypeWarning, "NearlyFull")
}

// TestGone: a volume that is still reported on this node after a reboot is reported as unmounted.
func TestGone(t *testing.T) {
	sv := sealed(t, "node-a")
	sv.Status.Node, sv.Status.Health = "node-a", v1alpha1.HealthHealthy
	if err := env.Client.Status().Update(t.Context(), sv); err != nil {
		t.Fatal(err)
	}
	start(t, "node-a")
	await(t, sv, "gone", func(s v1alpha1.SealedVolumeStatus) bool { return s.Node == "" && s.Health == "" })
}

// TestUnknownVolume: without a SealedVolume, or with one for another node, the anchor is unknown
// and nothing may be mounted.
func TestUnknownVolume(t *testing.T) {
	_, a := start(t, "node-a")
	other := sealed(t, "node-b")
	for _, id := range []string{"nowhere", other.Spec.VolumeHandle} {
		if s, err := a.Anchor(t.Context(), id); err == nil {
			t.Errorf("%s: %q", id, s)
		}
	}
	c, err := env.As(t.Context(), "node", "node-a")
	if err != nil {
		t.Fatal(err)
	}
	c.Host = "https://127.0.0.1:1"
	n := &node{}
	if a, err = nodeagent.New(nodeagent.Options{Node: "node-a", Config: c, Mounter: n, Control: n.control}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Anchor(t.Context(), other.Spec.VolumeHandle); err == nil {
		t.Error("an anchor without an API server")
	}
}
