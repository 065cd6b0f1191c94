package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/requestid"
)

// TopologyKey is the node label that says on which node an image is.
const TopologyKey = "topology.csi.sealvol.dev/node"

// Sizes of volumes, in bytes. All are multiples of Align, the block size of the volume format.
const (
	Align              = 4096
	MinVolumeBytes     = 64 << 20
	MaxVolumeBytes     = 16 << 40
	DefaultVolumeBytes = 1 << 30
)

// Options configure Open.
type Options struct {
	// Dir holds everything. It is created with mode 0700 if its parent exists.
	Dir string
	// Node is this node's id.
	Node string
	// Overcommit is how many times the file system's size may be promised. 0 means 1: sparse images
	// then cannot fill the file system, if nothing else is stored there.
	Overcommit float64
	// MaxVolumes limits attached volumes, 0 for no limit.
	MaxVolumes int64
	// Quiesce freezes a volume that is in use on this node, so that it can be copied. Without it,
	// such volumes cannot be copied.
	Quiesce backend.Quiesce
	// NodeOnly opens the directory only for Device and Info, beside another process that owns it.
	NodeOnly bool
	// Log gets a line for each change at debug level. Default: slog.Default.
	Log *slog.Logger

	// Hook, if not nil, is called before every change on the disk; an error ends the change. For
	// tests.
	Hook func(step string) error
}

// Backend is the local backend. Use Open.
type Backend struct {
	opt         Options
	lock        *os.File
	vols, snaps shelf
	images      disk
	formats     disk            // see formats.go
	running     context.Context // ends with Close
	stop        context.CancelFunc
	work        sync.WaitGroup // joins copies

	mu       sync.Mutex
	promised int64               // bytes of everything in state ready, and of running copies. Guarded by mu, like the rest.
	attached int64               // number of volumes
	unsure   bool                // a step failed, so what is on the disk may not be durable yet
	jobs     map[string]*job     // running copies, by prefix and hash of the result
	sources  map[string]int      // how many of them read a volume or snapshot
	of       map[string][]string // sorted ids of each volume's snapshots
}

var (
	_ backend.Backend     = (*Backend)(nil)
	_ backend.Snapshotter = (*Backend)(nil)
)

// Open opens or creates a directory of volumes, and finishes what a crash interrupted. Without
// Options.NodeOnly, it waits until another owner exits or ctx ends.
func Open(ctx context.Context, opt Options) (*Backend, error) {
	if opt.Node == "" {
		return nil, fmt.Errorf("%w: the node id is missing", backend.ErrInvalid)
	}
	if opt.Overcommit == 0 {
		opt.Overcommit = 1
	}
	if opt.Overcommit < 0 || math.IsNaN(opt.Overcommit) || opt.Overcommit > 1000 {
		return nil, fmt.Errorf("%w: overcommit must be between 0 and 1000, not %v", backend.ErrInvalid, opt.Overcommit)
	}
	dir, err := filepath.Abs(opt.Dir)
	if err != nil {
		return nil, err
	}
	opt.Dir, opt.Log = dir, requestid.Logger(opt.Log)
	b := &Backend{opt: opt, jobs: map[string]*job{}, sources: map[string]int{}, of: map[string][]string{}}
	b.running, b.stop = context.WithCancel(context.WithoutCancel(ctx))
	if err := b.open(ctx); err != nil {
		return nil, fmt.Errorf("open local backend in %s: %w", dir, errors.Join(err, b.Close()))
	}
	return b, nil
}

func (b *Backend) open(ctx context.Context) error {
	for _, d := range []string{b.opt.Dir, b.dirOf("volumes"), b.dirOf("snapshots"), b.dirOf("images"), b.dirOf("formats")} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	b.vols.prefix, b.snaps.prefix = volPrefix, snapPrefix
	for d, name := range map[*disk]string{&b.vols.disk: "volumes", &b.snaps.disk: "snapshots", &b.images: "images", &b.formats: "formats"} {
		f, err := os.OpenFile(b.dirOf(name), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		*d = disk{dir: f, hook: b.opt.Hook}
	}
	if b.opt.NodeOnly {
		return nil
	}
	if err := b.own(ctx); err != nil {
		return err
	}
	return b.recover()
}

func (b *Backend) dirOf(name string) string { return filepath.Join(b.opt.Dir, name) }

// own locks the lock file; the kernel releases it when this process ends in any way.
func (b *Backend) own(ctx context.Context) error {
	f, err := os.OpenFile(b.dirOf("lock"), unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	b.lock = f
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("another process uses the directory: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Close ends running copies, which start again on request, and releases the directory.
func (b *Backend) Close() error {
	b.stop()
	b.work.Wait()
	for _, f := range []*os.File{b.vols.dir, b.snaps.dir, b.images.dir, b.formats.dir, b.lock} {
		if f != nil {
			f.Close()
		}
	}
	return nil
}

// begin locks for a change. After a failed step, it first makes durable what readers may already
// see, before anything that relies on it is acknowledged.
func (b *Backend) begin(ctx context.Context) error {
	b.mu.Lock()
	err := ctx.Err()
	if err == nil {
		err = b.running.Err()
	}
	if err == nil && b.unsure {
		if err = errors.Join(b.vols.sync(), b.snaps.sync(), b.images.sync()); err == nil {
			b.unsure = false
		}
	}
	if err != nil {
		b.mu.Unlock()
	}
	return err
}

func insert(ids []string, id string) ([]string, bool) {
	i, found := slices.BinarySearch(ids, id)
	if found {
		return ids, false
	}
	return slices.Insert(ids, i, id), true
}

// diskError recognises a full disk.
func (b *Backend) diskError(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
		return fmt.Errorf("%w: %w", backend.ErrNoSpace, err)
	}
	return err
}

// list returns a page of the ids on a shelf. ids is called with mu held.
func list[T any](ctx context.Context, b *Backend, s *shelf, token string, most int, ids func() []string, show func(record) T) ([]T, string, error) {
	if _, ok := hashOfID(s.prefix, token); token != "" && !ok {
		return nil, "", backend.ErrBadToken
	}
	if most < 0 {
		return nil, "", fmt.Errorf("%w: max_entries is negative", backend.ErrInvalid)
	}
	b.mu.Lock()
	all := ids()
	from, found := slices.BinarySearch(all, token)
	if found {
		from++
	}
	page, next := all[from:], ""
	if most > 0 && len(page) > most {
		page = page[:most]
		next = page[most-1]
	}
	page = slices.Clone(page)
	b.mu.Unlock()
	var out []T
	for _, id := range page {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		r, err := b.onShelf(s, id)
		if errors.Is(err, s.notFound()) {
			continue // deleted in the meantime
		}
		if err != nil {
			return nil, "", err
		}
		out = append(out, show(r))
	}
	return out, next, nil
}
