package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/backend/ebs"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
)

// ebsSkips are specs of csi-sanity that need capacity, which EBS does not report.
var ebsSkips = []string{"GetCapacity not supported"}

// quickEBS is EC2's timing, a hundred times as fast.
var quickEBS = ebs.Timing{Batch: 5 * time.Millisecond, Coalesce: 200 * time.Millisecond, CreateFirst: 10 * time.Millisecond, Poll: 10 * time.Millisecond, PollMost: 100 * time.Millisecond,
	StuckAttach: time.Second, Settle: 600 * time.Millisecond, Patience: 10 * time.Second, DeviceAppear: 5 * time.Second}

var ebsDelays = ec2test.Delays{Create: 30 * time.Millisecond, Attach: 30 * time.Millisecond, Detach: 30 * time.Millisecond,
	Modify: 30 * time.Millisecond, Optimize: 20 * time.Millisecond, Snapshot: 30 * time.Millisecond, Lag: 10 * time.Millisecond}

const ebsNode = "i-0123456789abcdef0"

var quickConnect = grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second, Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1, MaxDelay: 10 * time.Millisecond}})

// standIn is a simulated EC2 for one test, with block devices.
type standIn struct {
	*ec2test.Server
	args []string // for the driver
}

func newEC2(t testing.TB, dir string) standIn {
	t.Helper()
	s, err := ec2test.New(ec2test.Options{Disks: dir, Delays: ebsDelays})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Consistent(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	s.AddInstance(ec2test.Instance{ID: ebsNode})
	s.AddInstance(ec2test.Instance{ID: "i-0123456789abcdef1"})
	return standIn{s, []string{"--backend", "ebs", "--cluster-id", "test", "--aws-region", s.Region(), "--aws-ec2-endpoint", s.URL(), "--aws-metadata-endpoint", s.URL(),
		"--zone", s.Region() + "a", "--sys-dir", s.Sys(), "--links-dir", s.Links()}}
}

// ebsVolume is a volume that is used through CSI calls.
type ebsVolume struct {
	ctrl             csi.ControllerClient
	node             csi.NodeClient
	r                *rig
	name, id         string
	context, publish map[string]string
	source           *csi.VolumeContentSource
}

const gib = 1 << 30

func (v *ebsVolume) create() error {
	resp, err := v.ctrl.CreateVolume(v.r.ctx(), &csi.CreateVolumeRequest{Name: v.name, VolumeCapabilities: []*csi.VolumeCapability{multiWriter()}, VolumeContentSource: v.source,
		CapacityRange: &csi.CapacityRange{RequiredBytes: gib}, Parameters: map[string]string{"recordSize": "64KiB", "type": "gp3"}})
	v.id, v.context = resp.GetVolume().GetVolumeId(), resp.GetVolume().GetVolumeContext()
	return err
}

func (v *ebsVolume) attach(node string) error {
	resp, err := v.ctrl.ControllerPublishVolume(v.r.ctx(), &csi.ControllerPublishVolumeRequest{VolumeId: v.id, NodeId: node, VolumeCapability: multiWriter(), VolumeContext: v.context})
	v.publish = resp.GetPublishContext()
	return err
}

func (v *ebsVolume) detach(node string) error {
	_, err := v.ctrl.ControllerUnpublishVolume(v.r.ctx(), &csi.ControllerUnpublishVolumeRequest{VolumeId: v.id, NodeId: node})
	return err
}

func (v *ebsVolume) expand(bytes int64) error {
	_, err := v.ctrl.ControllerExpandVolume(v.r.ctx(), &csi.ControllerExpandVolumeRequest{VolumeId: v.id, CapacityRange: &csi.CapacityRange{RequiredBytes: bytes}})
	return err
}

func (v *ebsVolume) modify(throughput string) error {
	_, err := v.ctrl.ControllerModifyVolume(v.r.ctx(), &csi.ControllerModifyVolumeRequest{VolumeId: v.id, MutableParameters: map[string]string{"throughput": throughput}})
	return err
}

func (v *ebsVolume) remove() error {
	_, err := v.ctrl.DeleteVolume(v.r.ctx(), &csi.DeleteVolumeRequest{VolumeId: v.id})
	return err
}

func (v *ebsVolume) staging() string { return v.r.path("kubelet/staging-" + v.name) }
func (v *ebsVolume) target() string  { return v.r.path("kubelet/pods/" + v.name) }
func (v *ebsVolume) secrets() map[string]string {
	return map[string]string{"kek": strings.Repeat("0123456789abcdef", 4)}
}

func (v *ebsVolume) stage() error {
	if err := os.Mkdir(v.staging(), 0o750); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	_, err := v.node.NodeStageVolume(v.r.ctx(), &csi.NodeStageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging(), VolumeCapability: multiWriter(), VolumeContext: v.context,
		PublishContext: v.publish, Secrets: v.secrets()})
	return err
}

func (v *ebsVolume) mount() error {
	_, err := v.node.NodePublishVolume(v.r.ctx(), &csi.NodePublishVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging(), TargetPath: v.target(), VolumeCapability: multiWriter(),
		VolumeContext: v.context, PublishContext: v.publish, Secrets: v.secrets()})
	return err
}

func (v *ebsVolume) unmount() error {
	_, err := v.node.NodeUnpublishVolume(v.r.ctx(), &csi.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: v.target()})
	return err
}

func (v *ebsVolume) unstage() error {
	_, err := v.node.NodeUnstageVolume(v.r.ctx(), &csi.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging()})
	return err
}

// all makes calls until one fails.
func all(t *testing.T, calls ...func() error) {
	t.Helper()
	for i, call := range calls {
		if err := call(); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
	}
}

// TestEBSEngine uses real, encrypted volumes on simulated block devices: files, growth and another
// class while mounted, a snapshot, a clone, a move, and a device that holds something else, which
// is never formatted.
func TestEBSEngine(t *testing.T) {
	t.Setenv(envEngine, "1")
	r := newRig(t)
	s := newEC2(t, r.path("ec2"))
	r.backend = s.args
	r.start("all", 0)
	r.connect("all", "all")
	v := &ebsVolume{ctrl: r.ctrl, node: r.node, r: r, name: "pvc"}
	on := func() error { return v.attach(ebsNode) }
	all(t, v.create, on, v.stage, v.mount)
	text := bytes.Repeat([]byte("plaintext of a file. "), 5000)
	file := filepath.Join(v.target(), "secretname")
	all(t, func() error { return writeDurably(file, text) }, func() error { // made at the same time, they become one modification
		var g errgroup.Group
		g.Go(func() error { return v.expand(2 * gib) })
		g.Go(func() error { return v.modify("200") })
		err := g.Wait()
		if n := s.Counts()["ModifyVolume"]; n != 1 {
			err = errors.Join(err, fmt.Errorf("%d modifications", n))
		}
		return err
	}, func() error {
		x, err := r.node.NodeExpandVolume(r.ctx(), &csi.NodeExpandVolumeRequest{VolumeId: v.id, VolumePath: v.target(), CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * gib}})
		if err == nil && x.GetCapacityBytes() != 2*gib {
			err = fmt.Errorf("%d bytes", x.GetCapacityBytes())
		}
		return err
	})
	snap, err := r.ctrl.CreateSnapshot(r.ctx(), &csi.CreateSnapshotRequest{Name: "snap", SourceVolumeId: v.id})
	if err != nil {
		t.Fatal(err)
	}
	for err = errors.New("not ready"); err != nil; { // CREATE of a volume waits for the snapshot
		restored := &ebsVolume{ctrl: r.ctrl, node: r.node, r: r, name: "restored", source: fromSnapshot(snap.GetSnapshot().GetSnapshotId())}
		if err = restored.create(); status.Code(err) == codes.Unavailable {
			continue
		}
		clone := &ebsVolume{ctrl: r.ctrl, node: r.node, r: r, name: "clone", source: fromVolume(v.id)}
		all(t, restored.create, clone.create)
		for _, c := range []*ebsVolume{restored, clone} {
			all(t, func() error { return c.attach(ebsNode) }, c.stage, c.mount, func() error { return sameFile(filepath.Join(c.target(), "secretname"), text) },
				c.unmount, c.unstage, func() error { return c.detach(ebsNode) }, c.remove)
		}
	}
	all(t, v.unmount, v.unstage, func() error { return v.detach(ebsNode) }, func() error { return v.attach("i-0123456789abcdef1") }, func() error { return v.detach("") })
	if n := countData(t, filepath.Join(r.path("ec2/data"), v.id), "plaintext of", "secretname"); n > 0 {
		t.Fatalf("%d times plaintext on the device", n)
	}
	all(t, on, v.stage, v.mount, func() error { return sameFile(file, text) }, v.unmount, v.unstage, func() error { return v.detach(ebsNode) }, v.remove)
	if _, err := r.ctrl.DeleteSnapshot(r.ctx(), &csi.DeleteSnapshotRequest{SnapshotId: snap.GetSnapshot().GetSnapshotId()}); err != nil {
		t.Fatal(err)
	}
	refuseForeign(t, r)
	for _, x := range s.Volumes() {
		if x.State != "deleting" {
			t.Errorf("left: %+v", x)
		}
	}
}

// countData counts occurrences of texts in the data of a sparse file.
func countData(t *testing.T, path string, texts ...string) (n int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := 0
	buf := make([]byte, 1<<20)
	for off := int64(0); ; {
		if off, err = f.Seek(off, unix.SEEK_DATA); err != nil {
			break // no more data
		}
		got, err := f.ReadAt(buf, off)
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		for _, text := range texts {
			n += bytes.Count(buf[:got], []byte(text))
		}
		data += got
		off += int64(max(got-64, 1)) // a text may lie across the boundary
		if got < len(buf) {
			break
		}
	}
	if data == 0 {
		t.Fatalf("%s: no data", path)
	}
	return n
}

func firstMiB(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1<<20)
	if _, err := f.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// controllerProcess is a controller that is killed and restarted.
type controllerProcess struct {
	t      testing.TB
	socket string
	args   []string
	log    *os.File
	mu     sync.Mutex
	cmd    *exec.Cmd // guarded by mu
}

func (c *controllerProcess) start() {
	base := mountertest.Command("driver")
	cmd := exec.Command(base[0], slices.Concat(base[1:], []string{"controller", "--endpoint", "unix://" + c.socket}, c.args)...)
	cmd.Stdout, cmd.Stderr = c.log, c.log
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.cmd = cmd
}

// kill may be called by any goroutine.
func (c *controllerProcess) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.cmd.Process.Kill() // the process may be dead already
}

// again waits for the end of the killed process and starts another.
func (c *controllerProcess) again() {
	_ = c.cmd.Wait() // returns an error because it was killed
	c.start()
}

// refuseForeign expects that a device which holds another file system is refused.
func refuseForeign(t *testing.T, r *rig) {
	t.Helper()
	other := &ebsVolume{ctrl: r.ctrl, node: r.node, r: r, name: "foreign"}
	all(t, other.create)
	data := filepath.Join(r.path("ec2/data"), other.id)
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", data).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	before := firstMiB(t, data)
	all(t, func() error { return other.attach(ebsNode) })
	if err := other.stage(); status.Code(err) != codes.FailedPrecondition {
		t.Fatalf("a foreign file system: %v", err)
	}
	all(t, func() error { return other.detach(ebsNode) })
	if !bytes.Equal(before, firstMiB(t, data)) {
		t.Fatal("it was written to")
	}
	all(t, other.remove)
}

// ebsLife makes all calls that a controller gets for a volume. It repeats each call until it
// succeeds, and returns the calls to EC2. The n-th call to EC2 kills the driver, before or after
// EC2 executes it.
func ebsLife(t *testing.T, n int, carriedOut bool, lag time.Duration) []ec2test.Call {
	dir := t.TempDir()
	s := newEC2(t, "")
	late := ebsDelays
	late.Lag = lag
	s.SetDelays(late)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	c := &controllerProcess{t: t, socket: filepath.Join(dir, "s"), args: s.args, log: log}
	r := &rig{t: t, dir: dir}
	killed := make(chan struct{}, 1)
	s.SetFault(func(call ec2test.Call) ec2test.Fault {
		if call.N != n {
			return ec2test.Fault{}
		}
		c.kill()
		killed <- struct{}{}
		return ec2test.Fault{Drop: !carriedOut, Lost: carriedOut}
	})
	c.start()
	t.Cleanup(func() {
		c.kill()
		_ = c.cmd.Wait()
		log.Close()
		if t.Failed() {
			b, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("%s", b)
		}
	})
	conn, err := grpc.NewClient("unix://"+c.socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)), quickConnect)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}()
	v := &ebsVolume{ctrl: csi.NewControllerClient(conn), r: r, name: "pvc"}
	copied := &ebsVolume{ctrl: v.ctrl, r: r, name: "copy"}
	var snap string
	for _, step := range []func() error{
		v.create, func() error { return v.attach(ebsNode) }, func() error { return v.expand(2 * gib) }, func() error { return v.modify("200") },
		func() error {
			x, err := v.ctrl.CreateSnapshot(r.ctx(), &csi.CreateSnapshotRequest{Name: "snap", SourceVolumeId: v.id})
			snap = x.GetSnapshot().GetSnapshotId()
			return err
		},
		func() error {
			copied.source = fromSnapshot(snap)
			return copied.create()
		},
		func() error { return v.detach(ebsNode) }, func() error { return v.attach("i-0123456789abcdef1") }, func() error { return v.detach("i-0123456789abcdef1") },
		func() error {
			_, err := v.ctrl.DeleteSnapshot(r.ctx(), &csi.DeleteSnapshotRequest{SnapshotId: snap})
			return err
		}, copied.remove, v.remove,
	} {
		untilDone(t, step, killed, c.again)
	}
	for _, x := range s.Volumes() {
		if x.State != "deleting" {
			t.Errorf("call %d: left: %+v", n, x)
		}
	}
	if left := s.Snapshots(); len(left) != 0 {
		t.Errorf("call %d: left: %v", n, left)
	}
	return s.Calls()
}

// untilDone repeats a call until it succeeds, and restarts the controller when it was killed.
func untilDone(t *testing.T, step func() error, killed <-chan struct{}, again func()) {
	t.Helper()
	var err error
	for range 100 {
		err = step()
		select {
		case <-killed:
			again()
		default:
		}
		if err == nil {
			return
		}
	}
	t.Fatal(err)
}

// TestEBSKilledAtAnyCall kills the driver with SIGKILL at each call to EC2, before and after EC2
// executes it.
func TestEBSKilledAtAnyCall(t *testing.T) {
	calls := ebsLife(t, -1, false, ebsDelays.Lag)
	t.Logf("%d calls in a life", len(calls))
	stride := 1
	if testing.Short() {
		stride = 6
	}
	var g errgroup.Group
	g.SetLimit(6)
	for n := range calls {
		change := !strings.HasPrefix(calls[n].Action, "Describe")
		if n%stride != 0 && !strings.HasPrefix(calls[n].Action, "Create") {
			continue
		}
		for _, carriedOut := range []bool{false, true} {
			if !change && carriedOut {
				continue // nothing was killed
			}
			lag := ebsDelays.Lag
			if change && carriedOut {
				lag = quickEBS.Settle / 2 // the next driver does not see the change at first
			}
			g.Go(func() error {
				t.Run(fmt.Sprint(n, calls[n].Action, carriedOut), func(t *testing.T) { ebsLife(t, n, carriedOut, lag) })
				return nil
			})
		}
	}
	_ = g.Wait()
}

// TestKubeNode reads a Node object from a server that requires the pod's token.
func TestKubeNode(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/nodes/n 1" || r.Header.Get("Authorization") != "Bearer secret" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		_, _ = io.WriteString(w, `{"metadata":{"labels":{"topology.kubernetes.io/zone":"z"}},"spec":{"providerID":"aws:///z/i-0123456789abcdef0"}}`)
	}))
	defer srv.Close()
	dir := t.TempDir()
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if _, err := x509.ParseCertificate(srv.Certificate().Raw); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"token": []byte("secret\n"), "ca.crt": cert} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n, err := kubeNode{"n 1", dir, srv.URL}.get(t.Context())
	if err != nil || n.Labels["topology.kubernetes.io/zone"] != "z" || n.ProviderID != "aws:///z/i-0123456789abcdef0" {
		t.Fatal(n, err)
	}
	if _, err := (kubeNode{"other", dir, srv.URL}).get(t.Context()); err == nil {
		t.Fatal("a refusal is no error")
	}
}

// TestBackendFlags: wrong flags are reported before anything is served.
func TestBackendFlags(t *testing.T) {
	for _, args := range [][]string{{"--backend", "nfs"}, {"--backend", "ebs"}, {"--backend", "ebs", "--cluster-id", "a b"}, {"--backend", "ebs", "--cluster-id", "a", "--volume-tags", "aws:x=y"},
		{"--backend", "ebs", "--cluster-id", "a", "--metadata-sources", "dns"}} {
		if err := run(t.Context(), append([]string{"controller", "--endpoint", "unix://" + filepath.Join(t.TempDir(), "s")}, args...), &bytes.Buffer{}, &bytes.Buffer{}); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
