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

// Mounter is what the node service needs to mount volumes. mounter.Client is one.
type Mounter interface {
	// Mount mounts a volume, after it has formatted a blank device if the request allows that; found as asked for, it does nothing; after the death of its
	// server it mounts anew.
	Mount(ctx context.Context, r mounter.MountRequest) error
	// Unmount returns when all is durable and nobody has the device. Not mounted is no error.
	Unmount(ctx context.Context, r mounter.UnmountRequest) error
	// CheckKeys gives keys to a volume's server: the current one is to open it from now on.
	// mounter.ErrWrongKey.
	CheckKeys(ctx context.Context, volume string, k mounter.Keys) error
	// Grow takes in a grown device and returns the size in bytes.
	Grow(ctx context.Context, volume string) (int64, error)
	// Stats returns how full a volume is, in bounded time.
	Stats(ctx context.Context, volume string) (control.Stats, error)
	// Health returns a volume's state, in bounded time. mounter.ErrNotMounted.
	Health(ctx context.Context, volume string) (mounter.Info, error)
	// Ping tells whether the mounter answers.
	Ping(ctx context.Context) error
}

// Agent is told what the node service does with volumes, and knows their anchors. nodeagent.Agent is one.
type Agent interface {
	// Anchor returns what a volume's device must not be older than, "" for none; an error if that is not known.
	Anchor(ctx context.Context, volume string) (string, error)
	// Staged comes after a volume was mounted, Unstaging before it is unmounted, when nobody writes to it any more, and Unstaged after that, also
	// if it failed.
	Staged(volume string)
	// Remounted comes instead of Staged after a volume was mounted again whose server had died.
	Remounted(volume string)
	// Unstaging comes before a volume is unmounted.
	Unstaging(ctx context.Context, volume string)
	// Unstaged comes when it is no longer mounted.
	Unstaged(volume string)
}

// noAgent knows nothing and tells nobody.
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
	// SelfAttach lets the node service attach, detach and grow volumes itself, and needs all of the above. The controller then does neither.
	SelfAttach bool
	// Agent is told of what is staged and knows anchors. Default: nobody.
	Agent Agent
	// Formats keep which volumes were made on their devices, so that none is made on the same
	// device again. What any of them says counts. Default: nobody does, and a device that was wiped
	// is formatted.
	Formats []backend.FormatKeeper
	// Announce serves nothing but what the services can, for sidecars that ask no more than that of a driver which runs elsewhere with
	// SelfAttach. It needs none of the above.
	Announce bool
	// KubeletDir is the directory below which all staging and target paths lie.
	KubeletDir string
	// Log gets one line a call. Default: slog.Default.
	Log *slog.Logger
	// Hook, if not nil, is called before every step that changes something. For tests.
	Hook func(step string)
}

// maxRequestBytes is far above what the spec's limits add up to.
const maxRequestBytes = 1 << 20

// stopTimeout is how long calls may take to come to their end; less than a pod's usual 30 s.
const stopTimeout = 20 * time.Second

// SocketPath returns the path of an endpoint unix:///path (or unix:/path).
func SocketPath(endpoint string) (string, error) {
	p, ok := strings.CutPrefix(endpoint, "unix:")
	if !ok {
		return "", fmt.Errorf("endpoint %q: only unix:///path is served", endpoint)
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
		return nil, errors.New("neither controller nor node service is enabled")
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxRequestBytes), grpc.MaxConcurrentStreams(256),
		grpc.ChainUnaryInterceptor(named, logged(opt.Log), translate, recovered(opt.Log), (&inflight{}).intercept))
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

// Serve serves until ctx ends, then lets calls that run come to their end.
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
