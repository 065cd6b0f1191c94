package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/requestid"
)

// DriverName is the CSI driver's name.
const DriverName = "csi.sealvol.dev"

// Mounter is what the node service needs to mount volumes. mounter.Client implements it.
type Mounter interface {
	// Mount mounts a volume. It formats a blank device first if the request allows it. If the
	// volume is already mounted as requested, it does nothing. If the mount server has died, it
	// mounts the volume again.
	Mount(ctx context.Context, r mounter.MountRequest) error
	// Unmount returns when all data is durable and no process has the device open. It is no error
	// if the volume is not mounted.
	Unmount(ctx context.Context, r mounter.UnmountRequest) error
	// CheckKeys passes keys to a volume's mount server: the current key must open the volume from
	// now on. It returns mounter.ErrWrongKey if it does not.
	CheckKeys(ctx context.Context, volume string, k mounter.Keys) error
	// Grow grows a volume to the size of its device and returns the size in bytes.
	Grow(ctx context.Context, volume string) (int64, error)
	// Stats returns how full a volume is. It returns in bounded time.
	Stats(ctx context.Context, volume string) (control.Stats, error)
	// Health returns a volume's state in bounded time, or mounter.ErrNotMounted.
	Health(ctx context.Context, volume string) (mounter.Info, error)
	// Ping tells whether the mounter answers.
	Ping(ctx context.Context) error
}

// Agent learns what the node service does with volumes, and knows their anchors. nodeagent.Agent
// implements it.
type Agent interface {
	// Anchor returns the anchor of a volume: its device must not hold an older state. "" means that
	// there is none; an error means that the agent does not know.
	Anchor(ctx context.Context, volume string) (string, error)
	// Staged is called after a volume was mounted.
	Staged(volume string)
	// Remounted is called instead of Staged after a volume was mounted again because its mount
	// server died.
	Remounted(volume string)
	// Unstaging is called before a volume is unmounted, when no pod writes to it any more.
	Unstaging(ctx context.Context, volume string)
	// Unstaged is called after the unmount, even if it failed.
	Unstaged(volume string)
}

// noAgent knows no anchors and ignores all calls.
type noAgent struct{}

func (noAgent) Anchor(context.Context, string) (string, error) { return "", nil }
func (noAgent) Staged(string)                                  {}
func (noAgent) Remounted(string)                               {}
func (noAgent) Unstaging(context.Context, string)              {}
func (noAgent) Unstaged(string)                                {}

// Options configure Serve.
type Options struct {
	// Endpoint is the socket, unix:///path.
	Endpoint string
	// Version of the driver, for GetPluginInfo.
	Version string
	// Controller enables the controller service, Node and Mounter the node service.
	Controller backend.Controller
	Node       backend.Node
	Mounter    Mounter
	// SelfAttach lets the node service attach, detach and grow volumes itself. It requires all of
	// the above. The controller service then does none of this.
	SelfAttach bool
	// Agent learns what is staged, and knows anchors. Default: none.
	Agent Agent
	// Formats record which volumes were formatted, so that none is formatted twice. The most
	// advanced state of all counts. Default: none, and the driver formats a wiped device.
	Formats []backend.FormatKeeper
	// Announce serves only the capabilities, for sidecars of a driver that runs on the nodes with
	// SelfAttach. It requires none of the above.
	Announce bool
	// KubeletDir is the directory below which all staging and target paths lie.
	KubeletDir string
	// Log gets one line for each call. Default: slog.Default.
	Log *slog.Logger
	// Hook, if not nil, is called before every step that changes something. For tests.
	Hook func(step string)
}

// maxRequestBytes is far above the sum of the spec's limits.
const maxRequestBytes = 1 << 20

// stopTimeout is how long running calls may take at shutdown; less than a pod's usual 30 s.
const stopTimeout = 20 * time.Second

// SocketPath returns the path of an endpoint unix:///path (or unix:/path).
func SocketPath(endpoint string) (string, error) {
	p, ok := strings.CutPrefix(endpoint, "unix:")
	if !ok {
		return "", fmt.Errorf("endpoint %q: want unix:///path", endpoint)
	}
	p = strings.TrimPrefix(p, "//")
	if !filepath.IsAbs(p) || filepath.Clean(p) != p {
		return "", fmt.Errorf("endpoint %q: the path must be absolute and clean", endpoint)
	}
	return p, nil
}

// NewServer returns a gRPC server with the services that opt enables.
func NewServer(opt Options) (*grpc.Server, error) {
	opt.Log = requestid.Logger(opt.Log)
	if opt.Hook == nil {
		opt.Hook = func(string) {}
	}
	if opt.Agent == nil {
		opt.Agent = noAgent{}
	}
	if opt.Controller == nil && opt.Node == nil && !opt.Announce {
		return nil, errors.New("neither the controller nor the node service is enabled")
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxRequestBytes), grpc.MaxConcurrentStreams(256),
		grpc.ChainUnaryInterceptor(withRequestID, logged(opt.Log), translate, recovered(opt.Log), (&inflight{}).intercept))
	csi.RegisterIdentityServer(s, &identityServer{opt: opt})
	if opt.Announce {
		csi.RegisterControllerServer(s, announcedController{})
		csi.RegisterNodeServer(s, announcedNode{})
		return s, nil
	}
	self, err := newSelfAttach(opt)
	if err != nil {
		return nil, err
	}
	if opt.Controller != nil {
		c := &controllerServer{backend: opt.Controller, self: self, hook: opt.Hook}
		c.snapshots, _ = opt.Controller.(backend.Snapshotter)
		c.tunable, _ = opt.Controller.(backend.Tunable)
		c.meter, _ = opt.Controller.(backend.Meter)
		csi.RegisterControllerServer(s, c)
	}
	if opt.Node != nil {
		if opt.Mounter == nil {
			return nil, errors.New("the node service needs a mounter")
		}
		root, err := openRoot(opt.KubeletDir)
		if err != nil {
			return nil, err
		}
		csi.RegisterNodeServer(s, &nodeServer{backend: opt.Node, mounter: opt.Mounter, agent: opt.Agent, self: self, root: root, hook: opt.Hook, formats: formatKeepers(opt.Formats), log: opt.Log})
	}
	return s, nil
}

func newSelfAttach(opt Options) (*selfAttach, error) {
	if !opt.SelfAttach {
		return nil, nil
	}
	if opt.Controller == nil || opt.Node == nil || opt.Mounter == nil {
		return nil, errors.New("self-attach needs the controller and the node service")
	}
	info, err := opt.Node.Info(context.Background())
	if err != nil {
		return nil, err
	}
	return &selfAttach{volumes: opt.Controller, node: info.ID, mounter: opt.Mounter, hook: opt.Hook}, nil
}

// Serve serves until ctx ends, and then waits for running calls.
func Serve(ctx context.Context, opt Options) error {
	path, err := SocketPath(opt.Endpoint)
	if err != nil {
		return err
	}
	s, err := NewServer(opt)
	if err != nil {
		return err
	}
	l, err := control.Listen(path)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		hard := time.AfterFunc(stopTimeout, s.Stop)
		defer hard.Stop()
		s.GracefulStop()
	})
	defer stop()
	return s.Serve(l)
}
