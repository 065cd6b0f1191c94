package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/sealvol/sealvol/pkg/mounter"
)

const (
	nodeID      = "demo-node"
	callTimeout = 2 * time.Minute // the same as the kubelet's
	startTime   = 30 * time.Second
)

// rig is a driver in separate processes, and the part of Kubernetes that calls it.
type rig struct {
	dir    string // the directory of all files
	key    []byte // 32 random bytes
	driver *exec.Cmd
	gone   chan struct{} // closed when the driver has ended
	conn   *grpc.ClientConn

	volume  string
	context map[string]string
	publish map[string]string
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// staging and target are the paths that the kubelet would use. target is the volume as a pod sees
// it.
func (r *rig) staging() string { return r.path("kubelet/staging") }
func (r *rig) target() string  { return r.path("kubelet/pods/pod") }
func (r *rig) socket() string  { return r.path("csi.sock") }
func (r *rig) image() string   { return r.path("local/images/" + r.volume + ".img") }
func (r *rig) logs() []string  { return []string{r.path("driver.log"), r.path("mounter/mounter.log")} }

func (r *rig) mounter() mounter.Client {
	return mounter.Client{Socket: mounter.SocketPath(r.path("mounter"))}
}

// start starts the driver and waits until it answers.
func (r *rig) start(ctx context.Context, program string) error {
	r.key = make([]byte, 32)
	rand.Read(r.key)
	for _, d := range []string{"kubelet/pods", "kubelet/staging"} {
		if err := os.MkdirAll(r.path(d), 0o750); err != nil {
			return err
		}
	}
	log, err := os.OpenFile(r.path("driver.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	r.driver = exec.Command(program, "all", "--endpoint", "unix://"+r.socket(), "--node-id", nodeID, "--log-format", "text",
		"--local-dir", r.path("local"), "--mounter-dir", r.path("mounter"), "--kubelet-dir", r.path("kubelet"))
	r.driver.Dir = "/"
	r.driver.Stdout, r.driver.Stderr = log, log
	r.driver.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // ^C on the terminal must reach only the demo
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := r.driver.Start(); err != nil {
		return fmt.Errorf("start the driver: %w", err)
	}
	gone := make(chan struct{})
	r.gone = gone
	go func() {
		r.driver.Wait() //nolint:errcheck // stop looks at ProcessState
		close(gone)
	}()
	return r.connect(ctx)
}

func (r *rig) connect(ctx context.Context) (err error) {
	every := backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1, MaxDelay: 20 * time.Millisecond}
	r.conn, err = grpc.NewClient("unix://"+r.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second, Backoff: every}))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-r.gone:
			cancel()
		case <-stop:
		}
	}()
	p, err := csi.NewIdentityClient(r.conn).Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("the driver did not answer: %w", plain(err))
	}
	if ready := p.GetReady(); ready != nil && !ready.GetValue() {
		return errors.New("the driver is not ready")
	}
	return nil
}

// plain formats a gRPC error in one line.
func plain(err error) error {
	if s, ok := status.FromError(err); ok && err != nil {
		return fmt.Errorf("%v: %s", s.Code(), s.Message())
	}
	return err
}

// call makes one CSI call.
func call[Q, A any](ctx context.Context, name string, f func(context.Context, Q, ...grpc.CallOption) (A, error), q Q) (A, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	a, err := f(ctx, q)
	if err != nil {
		return a, fmt.Errorf("%s: %w", name, plain(err))
	}
	return a, nil
}

func (r *rig) controller() csi.ControllerClient { return csi.NewControllerClient(r.conn) }
func (r *rig) node() csi.NodeClient             { return csi.NewNodeClient(r.conn) }

func capability() *csi.VolumeCapability {
	return &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}}
}

func (r *rig) secrets() map[string]string { return map[string]string{"kek": hex.EncodeToString(r.key)} }

func (r *rig) create(ctx context.Context, sizeBytes int64) error {
	v, err := call(ctx, "CreateVolume", r.controller().CreateVolume, &csi.CreateVolumeRequest{Name: "pvc-demo",
		VolumeCapabilities: []*csi.VolumeCapability{capability()}, CapacityRange: &csi.CapacityRange{RequiredBytes: sizeBytes}})
	if err != nil {
		return err
	}
	r.volume, r.context = v.GetVolume().GetVolumeId(), v.GetVolume().GetVolumeContext()
	return nil
}

// attach, stage and bind are the calls when a pod is scheduled to the node and starts.
func (r *rig) attach(ctx context.Context) error {
	a, err := call(ctx, "ControllerPublishVolume", r.controller().ControllerPublishVolume, &csi.ControllerPublishVolumeRequest{VolumeId: r.volume,
		NodeId: nodeID, VolumeCapability: capability(), VolumeContext: r.context})
	r.publish = a.GetPublishContext()
	return err
}

func (r *rig) stage(ctx context.Context) error {
	_, err := call(ctx, "NodeStageVolume", r.node().NodeStageVolume, &csi.NodeStageVolumeRequest{VolumeId: r.volume, StagingTargetPath: r.staging(),
		VolumeCapability: capability(), VolumeContext: r.context, PublishContext: r.publish, Secrets: r.secrets()})
	return err
}

func (r *rig) bind(ctx context.Context) error {
	_, err := call(ctx, "NodePublishVolume", r.node().NodePublishVolume, &csi.NodePublishVolumeRequest{VolumeId: r.volume, StagingTargetPath: r.staging(),
		TargetPath: r.target(), VolumeCapability: capability(), VolumeContext: r.context, PublishContext: r.publish, Secrets: r.secrets()})
	return err
}

func (r *rig) unbind(ctx context.Context) error {
	_, err := call(ctx, "NodeUnpublishVolume", r.node().NodeUnpublishVolume, &csi.NodeUnpublishVolumeRequest{VolumeId: r.volume, TargetPath: r.target()})
	return err
}

func (r *rig) unstage(ctx context.Context) error {
	_, err := call(ctx, "NodeUnstageVolume", r.node().NodeUnstageVolume, &csi.NodeUnstageVolumeRequest{VolumeId: r.volume, StagingTargetPath: r.staging()})
	return err
}

func (r *rig) detach(ctx context.Context) error {
	_, err := call(ctx, "ControllerUnpublishVolume", r.controller().ControllerUnpublishVolume, &csi.ControllerUnpublishVolumeRequest{VolumeId: r.volume, NodeId: nodeID})
	return err
}

func (r *rig) delete(ctx context.Context) error {
	_, err := call(ctx, "DeleteVolume", r.controller().DeleteVolume, &csi.DeleteVolumeRequest{VolumeId: r.volume})
	return err
}

// expand grows the volume while it is in use.
func (r *rig) expand(ctx context.Context, sizeBytes int64) error {
	size := &csi.CapacityRange{RequiredBytes: sizeBytes}
	c, err := call(ctx, "ControllerExpandVolume", r.controller().ControllerExpandVolume, &csi.ControllerExpandVolumeRequest{VolumeId: r.volume,
		CapacityRange: size, VolumeCapability: capability()})
	if err != nil {
		return err
	}
	if !c.GetNodeExpansionRequired() {
		return errors.New("ControllerExpandVolume: the answer does not require NodeExpandVolume")
	}
	n, err := call(ctx, "NodeExpandVolume", r.node().NodeExpandVolume, &csi.NodeExpandVolumeRequest{VolumeId: r.volume, VolumePath: r.target(),
		StagingTargetPath: r.staging(), CapacityRange: size, VolumeCapability: capability()})
	if err == nil && n.GetCapacityBytes() < sizeBytes {
		err = fmt.Errorf("NodeExpandVolume: the answer has %d bytes instead of %d", n.GetCapacityBytes(), sizeBytes)
	}
	return err
}

// totalBytes returns the size of the volume as the kubelet sees it.
func (r *rig) totalBytes(ctx context.Context) (int64, error) {
	s, err := call(ctx, "NodeGetVolumeStats", r.node().NodeGetVolumeStats, &csi.NodeGetVolumeStatsRequest{VolumeId: r.volume, VolumePath: r.target()})
	if err != nil {
		return 0, err
	}
	for _, u := range s.GetUsage() {
		if u.GetUnit() == csi.VolumeUsage_BYTES {
			return u.GetTotal(), nil
		}
	}
	return 0, errors.New("NodeGetVolumeStats: the answer has no bytes")
}

// stop ends the driver like a container runtime. Its mounter is idle and ends, too.
func (r *rig) stop(ctx context.Context) error {
	r.conn.Close() //nolint:errcheck // no call is running
	if err := r.driver.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the driver: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	select {
	case <-r.gone:
	case <-ctx.Done():
		return fmt.Errorf("the driver did not end: %w", ctx.Err())
	}
	if !r.driver.ProcessState.Success() {
		return fmt.Errorf("the driver ended with %v", r.driver.ProcessState)
	}
	return nil
}

// tail returns the end of a log, for error messages.
func tail(path string, lines int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
