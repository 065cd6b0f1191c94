package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/local"
	"github.com/sealvol/sealvol/pkg/csi"
	"github.com/sealvol/sealvol/pkg/mounter"
)

// hook is set by tests. It is called before every step of the CSI services and of the local backend
// that changes something.
var hook func(step string)

func endpointFlag(c *cobra.Command, p *string) {
	c.Flags().StringVar(p, "endpoint", "unix:///csi/csi.sock", "socket of the CSI services; only unix:// (mode 0600)")
}

// backendFlags select the backend; ebsFlags are those that only ebs needs.
type backendFlags struct {
	kind       string
	ebs        ebsFlags
	node, dir  string
	overcommit float64
	maxVolumes int64
}

func (b *backendFlags) add(c *cobra.Command) {
	name := os.Getenv("NODE_NAME")
	if name == "" {
		name, _ = os.Hostname()
	}
	c.Flags().StringVar(&b.kind, "backend", "local", "storage backend: local (files on this node) or ebs (Amazon EBS)")
	c.Flags().StringVar(&b.node, "node-id", name, "id of this node; default: $NODE_NAME or the host name, and with ebs the instance id")
	c.Flags().StringVar(&b.dir, "local-dir", "/var/lib/sealvol/local", "directory of the volumes' images; use a separate file system")
	c.Flags().Float64Var(&b.overcommit, "local-overcommit", 1, "how many times the size of the file system may be promised to volumes")
	c.Flags().Int64Var(&b.maxVolumes, "max-volumes", 0, "maximum number of volumes on this node; 0: no limit, or with ebs the limit of the instance")
	b.ebs.add(c)
}

// openBackend is a backend that the caller must close.
type openBackend interface {
	backend.Backend
	io.Closer
}

// open opens the backend. mounterDir is the directory of the mounter on this node, for snapshots of
// mounted volumes.
func (b *backendFlags) open(ctx context.Context, nodeOnly bool, mounterDir string) (openBackend, error) {
	switch b.kind {
	case "local":
	case "ebs":
		return b.ebs.open(ctx, b, nodeOnly)
	default:
		return nil, fmt.Errorf("--backend %q: must be local or ebs", b.kind)
	}
	if b.node == "" || len(b.node) > 256 {
		return nil, errors.New("--node-id must have 1 to 256 bytes")
	}
	if err := makeParent(b.dir); err != nil {
		return nil, err
	}
	o := local.Options{Dir: b.dir, Node: b.node, Overcommit: b.overcommit, MaxVolumes: b.maxVolumes, NodeOnly: nodeOnly}
	if mounterDir != "" {
		o.Quiesce = quiesceBy(mounterDir)
	}
	if hook != nil {
		o.Hook = func(step string) error {
			hook("backend " + step)
			return nil
		}
	}
	l, err := local.Open(ctx, o)
	if err == nil && !nodeOnly && l.CopiesAll() {
		slog.Warn("the file system of the state directory cannot share blocks: each snapshot and clone copies the whole volume, and writes to the source wait until "+
			"the copy is complete; use XFS or Btrfs to avoid this", "dir", b.dir)
	}
	return l, err
}

// formats returns where it is recorded which volumes were formatted. A node agent also records it.
func (b *backendFlags) formats(back openBackend, agent bool) []backend.FormatKeeper {
	k, ok := back.(backend.FormatKeeper)
	switch {
	case b.kind == "ebs" && agent: // the node agent needs no permissions of AWS
		return nil
	case b.kind == "ebs" && !b.ebs.formatTags:
		slog.Warn("the driver does not record which volumes were formatted, so it formats a device that was wiped; set --format-tags or --node-agent to prevent this")
		return nil
	case !ok:
		return nil
	}
	return []backend.FormatKeeper{k}
}

// mounterFlags say how to reach the mounter.
type mounterFlags struct {
	kubeletDir, stateDir string
	external             bool
	server               serverFlags
}

func (m *mounterFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&m.kubeletDir, "kubelet-dir", "/var/lib/kubelet", "the kubelet's directory; all staging and target paths must lie below it")
	c.Flags().StringVar(&m.stateDir, "mounter-dir", "/var/lib/sealvol/mounter", "state directory of the mounter, which has its socket")
	c.Flags().BoolVar(&m.external, "external-mounter", false, "never start a mounter; a separate process runs as driver mounter")
	m.server.add(c)
}

// makeParent creates the directories above a state directory. The state directory itself is created
// by its owner with mode 0700.
func makeParent(dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	return os.MkdirAll(filepath.Dir(abs), 0o755)
}

// startTimeout limits the start of the mounter.
const startTimeout = 30 * time.Second

// mounter finds or starts the mounter.
func (m *mounterFlags) mounter(ctx context.Context) (csi.Mounter, error) {
	if m.external { // do not wait for it: until it answers, the driver reports not ready, and node calls return an error
		return mounter.Client{Socket: mounter.SocketPath(m.stateDir)}, nil
	}
	if err := makeParent(m.stateDir); err != nil {
		return nil, err
	}
	c, err := m.spawn(ctx)
	return &embedded{Client: c, start: m.spawn}, err
}

func (m *mounterFlags) spawn(ctx context.Context) (mounter.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return mounter.Spawn(ctx, m.stateDir, slices.Concat(mounterProgram(), m.server.args(m.stateDir), logArgs))
}

// mounterProgram returns the command that starts this program as a mounter.
var mounterProgram = func() []string { return []string{"/proc/self/exe", "mounter"} }

// quit ends a mounter that this process started and that has no volumes.
func (m *mounterFlags) quit(c csi.Mounter) {
	e, ok := c.(*embedded)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := e.Client.Quit(ctx); err != nil {
		slog.Warn("cannot reach the mounter to end it; it may keep running", "error", err)
	}
}

// serverFlags are the settings of mount servers.
type serverFlags struct {
	uid, gid uint32
	cgroup   string
	memory   int64

	workerUID, workerGID uint32
	workerMemory         int64
	maxWorkers           int
}

func (s *serverFlags) add(c *cobra.Command) {
	c.Flags().Uint32Var(&s.uid, "server-uid", 0, "user id of mount servers; 0: that of the mounter")
	c.Flags().Uint32Var(&s.gid, "server-gid", 0, "group id of mount servers; 0: that of the mounter")
	c.Flags().StringVar(&s.cgroup, "server-cgroup", "", "cgroup v2 directory in which each mount server and each snapshot worker gets a cgroup of its own")
	c.Flags().Int64Var(&s.memory, "memory", 256<<20, "memory limit of each volume in bytes")
	c.Flags().Uint32Var(&s.workerUID, "worker-uid", 0, "user id of snapshot workers, not that of mount servers; 0: nobody (65534)")
	c.Flags().Uint32Var(&s.workerGID, "worker-gid", 0, "group id of snapshot workers; 0: nobody (65534)")
	c.Flags().Int64Var(&s.workerMemory, "worker-memory", 192<<20, "memory limit of each snapshot worker in bytes")
	c.Flags().IntVar(&s.maxWorkers, "max-workers", 2, "how many snapshots are stored at once on this node")
}

func (s *serverFlags) args(stateDir string) []string {
	return []string{"--mounter-dir", stateDir, "--server-uid", fmt.Sprint(s.uid), "--server-gid", fmt.Sprint(s.gid),
		"--server-cgroup", s.cgroup, "--memory", fmt.Sprint(s.memory),
		"--worker-uid", fmt.Sprint(s.workerUID), "--worker-gid", fmt.Sprint(s.workerGID),
		"--worker-memory", fmt.Sprint(s.workerMemory), "--max-workers", fmt.Sprint(s.maxWorkers)}
}

func serve(ctx context.Context, o csi.Options) error {
	o.Version, o.Hook = version, hook
	return csi.Serve(ctx, o)
}
