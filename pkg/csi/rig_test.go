package csi_test

import (
	"bytes"
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	spec "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/backend/local"
	"github.com/sealvol/sealvol/pkg/csi"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
)

func TestMain(m *testing.M) {
	mountertest.Main(nil)
	os.Exit(m.Run())
}

const (
	node = "node-1"
	size = 128 << 20
)

var kek = strings.Repeat("0123456789abcdef", 4)

// rig runs the services on a socket, with the local backend and a mounter with real mount servers.
type rig struct {
	t           *testing.T
	dir         string // real path
	log         *syncBuffer
	id          spec.IdentityClient
	ctrl        spec.ControllerClient
	node        spec.NodeClient
	mounter     mounter.Client
	back        *local.Backend
	stopMounter func()
	mu          sync.Mutex
	hook        func(step string) // guarded by mu
}

func (r *rig) setHook(f func(string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hook = f
}

func (r *rig) callHook(step string) {
	r.mu.Lock()
	f := r.hook
	r.mu.Unlock()
	if f != nil {
		f(step)
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigWith(t, csi.Options{})
}

// newRigWith adds to options what the rig has.
func newRigWith(t *testing.T, opt csi.Options) *rig {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: dir, log: &syncBuffer{}}
	mountertest.Guard(t, dir, 2*time.Minute)
	t.Setenv(mountertest.EnvData, r.path("data"))
	if err := os.MkdirAll(r.path("kubelet/pods"), 0o750); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	back, err := local.Open(t.Context(), local.Options{Dir: r.path("local"), Node: node})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := back.Close(); err != nil {
			t.Error(err)
		}
	})
	r.stopMounter = r.background(func(ctx context.Context) error {
		return mounter.Run(ctx, mounter.Options{StateDir: r.path("mounter"), Command: mountertest.Command("mount"), LoopCommand: mountertest.Command("loop"), Log: log})
	})
	r.mounter = mounter.Client{Socket: mounter.SocketPath(r.path("mounter"))}
	if err := r.mounter.WaitUp(r.ctx(), nil); err != nil {
		t.Fatal(err)
	}
	endpoint := "unix://" + r.path("csi.sock")
	opt.Endpoint, opt.Version, opt.KubeletDir, opt.Log, opt.Hook = endpoint, "test", r.path("kubelet"), log, r.callHook
	if f, ok := opt.Controller.(*tunable); ok {
		f.Backend = back
	} else {
		opt.Controller = back
	}
	opt.Node, opt.Mounter = back, r.mounter
	r.back = back
	r.background(func(ctx context.Context) error { return csi.Serve(ctx, opt) })
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	r.id, r.ctrl, r.node = spec.NewIdentityClient(conn), spec.NewControllerClient(conn), spec.NewNodeClient(conn)
	return r
}

// background runs until the end of the test, or until the returned function is called.
func (r *rig) background(run func(context.Context) error) func() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				r.t.Error(err)
			}
		})
	}
	r.t.Cleanup(stop)
	return stop
}

func (r *rig) path(p string) string { return filepath.Join(r.dir, p) }

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	r.t.Cleanup(cancel)
	return ctx
}

func capability(mode spec.VolumeCapability_AccessMode_Mode, flags ...string) *spec.VolumeCapability {
	return &spec.VolumeCapability{AccessMode: &spec.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &spec.VolumeCapability_Mount{Mount: &spec.VolumeCapability_MountVolume{MountFlags: flags}}}
}

func blockCapability(mode spec.VolumeCapability_AccessMode_Mode) *spec.VolumeCapability {
	return &spec.VolumeCapability{AccessMode: &spec.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &spec.VolumeCapability_Block{Block: &spec.VolumeCapability_BlockVolume{}}}
}

const (
	writer       = spec.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	reader       = spec.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
	singleWriter = spec.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	multiWriter  = spec.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
)

// vol is a volume and how it is used.
type vol struct {
	r       *rig
	id      string
	context map[string]string
	publish map[string]string
	cap     *spec.VolumeCapability
	secrets map[string]string
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (r *rig) create(name string, mode spec.VolumeCapability_AccessMode_Mode) *vol {
	r.t.Helper()
	return r.createWith(name, capability(mode))
}

func (r *rig) createWith(name string, c *spec.VolumeCapability) *vol {
	r.t.Helper()
	v := must[*spec.CreateVolumeResponse](r.t)(r.ctrl.CreateVolume(r.ctx(), &spec.CreateVolumeRequest{Name: name, VolumeCapabilities: []*spec.VolumeCapability{c},
		CapacityRange: &spec.CapacityRange{RequiredBytes: size}, Parameters: map[string]string{"recordSize": "64KiB"}})).GetVolume()
	return &vol{r: r, id: v.GetVolumeId(), context: v.GetVolumeContext(), cap: c, secrets: map[string]string{"kek": kek}}
}

func (v *vol) staging() string {
	p := v.r.path("kubelet/staging-" + v.id)
	if err := os.Mkdir(p, 0o750); err != nil && !os.IsExist(err) {
		v.r.t.Fatal(err)
	}
	return p
}

func (v *vol) target(name string) string { return v.r.path("kubelet/pods/" + name) }

func (v *vol) attach(readOnly bool) error {
	resp, err := v.r.ctrl.ControllerPublishVolume(v.r.ctx(), &spec.ControllerPublishVolumeRequest{VolumeId: v.id, NodeId: node, VolumeCapability: v.cap, VolumeContext: v.context, Readonly: readOnly})
	v.publish = resp.GetPublishContext()
	return err
}

func (v *vol) stage() error {
	_, err := v.r.node.NodeStageVolume(v.r.ctx(), &spec.NodeStageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging(), VolumeCapability: v.cap, VolumeContext: v.context, PublishContext: v.publish, Secrets: v.secrets})
	return err
}

func (v *vol) publishRequest(target string) *spec.NodePublishVolumeRequest {
	return &spec.NodePublishVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging(), TargetPath: v.target(target),
		VolumeCapability: v.cap, VolumeContext: v.context, PublishContext: v.publish, Secrets: v.secrets}
}

func (v *vol) publishTo(target string) error {
	_, err := v.r.node.NodePublishVolume(v.r.ctx(), v.publishRequest(target))
	return err
}

func (v *vol) unpublish(target string) error {
	_, err := v.r.node.NodeUnpublishVolume(v.r.ctx(), &spec.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: v.target(target)})
	return err
}

func (v *vol) unstage() error {
	_, err := v.r.node.NodeUnstageVolume(v.r.ctx(), &spec.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging()})
	return err
}

// drop undoes every step of a volume and deletes it.
func (v *vol) drop(targets ...string) {
	v.r.t.Helper()
	for _, t := range targets {
		wantCode(v.r.t, v.unpublish(t), codes.OK)
	}
	wantCode(v.r.t, v.unstage(), codes.OK)
	_, err := v.r.ctrl.ControllerUnpublishVolume(v.r.ctx(), &spec.ControllerUnpublishVolumeRequest{VolumeId: v.id, NodeId: node})
	wantCode(v.r.t, err, codes.OK)
	_, err = v.r.ctrl.DeleteVolume(v.r.ctx(), &spec.DeleteVolumeRequest{VolumeId: v.id})
	wantCode(v.r.t, err, codes.OK)
}

// up attaches and stages the volume.
func (v *vol) up() *vol {
	v.r.t.Helper()
	wantCode(v.r.t, v.attach(false), codes.OK)
	wantCode(v.r.t, v.stage(), codes.OK)
	return v
}

func wantCode(t testing.TB, err error, code codes.Code) {
	t.Helper()
	if got := status.Code(err); got != code {
		t.Fatalf("got %v (%v), want %v", got, err, code)
	}
}

// world lists everything that a call could change: files, mounts, volumes.
func (r *rig) world() string {
	r.t.Helper()
	var b strings.Builder
	for _, m := range mountertest.Below(r.dir) {
		b.WriteString(m.Mountpoint + " " + m.Options + "\n")
	}
	for _, d := range []string{"local", "kubelet", "mounter/volumes"} {
		err := filepath.WalkDir(r.path(d), func(p string, e fs.DirEntry, err error) error {
			b.WriteString(p + "\n")
			if filepath.Ext(p) == ".json" {
				raw, _ := os.ReadFile(p)
				b.Write(raw)
			}
			return nil
		})
		if err != nil {
			r.t.Error(err)
		}
	}
	return b.String()
}
