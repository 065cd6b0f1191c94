package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/requestid"
)

// TopologyKey is the node label that says which node holds an image.
const TopologyKey = "topology.csi.sealvol.dev/node"

// Sizes of volumes, in bytes. All are multiples of Align, the sector of the volume format.
const (
	Align              = 4096
	MinVolumeBytes     = 64 << 20
	MaxVolumeBytes     = 16 << 40
	DefaultVolumeBytes = 1 << 30
)

// Options configure Open.
type Options struct {
	// Dir holds everything; it is made, with mode 0700, if its parent exists.
	Dir string
	// Node is this node's id.
	Node string
	// Overcommit is how many times the file system's size may be promised. 0 means 1: sparse images
	// then cannot fill the file system, provided that it holds nothing else.
	Overcommit float64
	// MaxVolumes limits attached volumes, 0 for no limit.
	MaxVolumes int64
	// Quiesce brings a volume to rest that is in use on this node, for copies of it; nil: none are made of such a volume.
	Quiesce backend.Quiesce
	// NodeOnly opens for Device and Info alone, beside another process that owns the directory.
	NodeOnly bool
	// Log gets a line for each change, for debugging. Default: slog.Default.
	Log *slog.Logger

	// Hook, if not nil, is called before every change on the disk; an error ends it. For tests.
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
	work        sync.WaitGroup // copies

	mu       sync.Mutex
	promised int64               // bytes; of what is in state ready, and of copies under way. Guarded by mu, as is the rest.
	attached int64               // volumes
	unsure   bool                // a step failed, so that what is on the disk may not be durable yet
	jobs     map[string]*job     // copies under way, by prefix and hash of what is being made
	sources  map[string]int      // how many of them read a volume or snapshot
	of       map[string][]string // sorted ids of each volume's snapshots
}

// shelf is the records of one kind: volumes or snapshots.
type shelf struct {
	disk
	prefix string
	ids    []string // sorted; in state ready. Guarded by Backend.mu.
}

var (
	_ backend.Backend     = (*Backend)(nil)
	_ backend.Snapshotter = (*Backend)(nil)
)

// Open opens or makes a directory of volumes and finishes what a crash left undone. With
// Options.NodeOnly unset it waits, until ctx ends, for another owner to go.
func Open(ctx context.Context, opt Options) (*Backend, error) {
	if opt.Node == "" {
		return nil, fmt.Errorf("%w: no node id", backend.ErrInvalid)
	}
	if opt.Overcommit == 0 {
		opt.Overcommit = 1
	}
	if opt.Overcommit < 0 || math.IsNaN(opt.Overcommit) || opt.Overcommit > 1000 {
		return nil, fmt.Errorf("%w: overcommit %v", backend.ErrInvalid, opt.Overcommit)
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

// own takes the lock file; the kernel releases it however this process ends.
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
			return fmt.Errorf("another process owns it: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Close ends copies that are under way, which are begun anew when they are asked for again, and gives the directory up.
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

// recover builds the index and finishes what a crash left undone.
func (b *Backend) recover() error {
	return errors.Join(b.recoverShelf(&b.vols), b.recoverShelf(&b.snaps))
}

func (b *Backend) recoverShelf(s *shelf) error {
	names, err := s.dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".tmp") {
			if err := s.remove(name); err != nil {
				return err
			}
			continue
		}
		hash, ok := strings.CutSuffix(name, ".json")
		if !ok || len(hash) != nameHash || !isHex(hash) {
			continue
		}
		r, err := b.load(s, hash)
		if errors.Is(err, backend.ErrDamaged) {
			continue // stays as it is: calls for this volume say so, the others go on
		}
		if err != nil {
			return err
		}
		if err := b.recoverOne(r); err != nil {
			return err
		}
	}
	return nil
}

func (b *Backend) recoverOne(r record) error {
	if r.State != ready {
		return b.erase(r)
	}
	// A missing image is reported by Health and Device; it does not keep the other volumes away.
	if err := b.images.extend(imageFile(r.ID), r.SizeBytes, false); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	b.index(r)
	b.promised += r.SizeBytes
	if r.Attachment != nil {
		b.attached++
	}
	return nil
}

// shelfOf returns where the record of an id of ours is, and its base name.
func (b *Backend) shelfOf(id string) (*shelf, string) {
	if hash, ok := hashOfID(snapPrefix, id); ok {
		return &b.snaps, hash
	}
	hash, _ := hashOfID(volPrefix, id)
	return &b.vols, hash
}

// erase deletes a volume or snapshot that is creating or deleting.
func (b *Backend) erase(r record) error {
	s, hash := b.shelfOf(r.ID)
	err := b.images.remove(imageFile(r.ID))
	if err == nil && s == &b.vols {
		err = b.forgetFormat(r.ID)
	}
	if err == nil {
		err = s.remove(recordFile(hash))
	}
	if err != nil {
		b.unsure = true
	}
	return err
}

// notFound is the error for what is missing on a shelf.
func (s *shelf) notFound() error {
	if s.prefix == snapPrefix {
		return backend.ErrSnapshotNotFound
	}
	return backend.ErrNotFound
}

// load reads a record; notFound if there is none.
func (b *Backend) load(s *shelf, hash string) (record, error) {
	raw, err := s.read(recordFile(hash), maxRecordBytes)
	if errors.Is(err, unix.ENOENT) {
		return record{}, s.notFound()
	}
	if err != nil {
		return record{}, err
	}
	return decodeRecord(raw, s.prefix, hash)
}

func (b *Backend) save(r record) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(raw) > maxRecordBytes {
		return fmt.Errorf("%w: parameters too long", backend.ErrInvalid)
	}
	s, hash := b.shelfOf(r.ID)
	if err := s.replace(recordFile(hash), raw); err != nil {
		b.unsure = true
		return err
	}
	return nil
}

// begin locks for a change. After a failed step it makes durable what readers may already see,
// before anything is acknowledged that relies on it.
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

// byID returns a ready volume's record.
func (b *Backend) byID(id string) (record, error) { return b.onShelf(&b.vols, id) }

func (b *Backend) onShelf(s *shelf, id string) (record, error) {
	hash, ok := hashOfID(s.prefix, id)
	if !ok {
		return record{}, s.notFound()
	}
	r, err := b.load(s, hash)
	if err != nil {
		return record{}, err
	}
	if r.ID != id || r.State != ready {
		return record{}, s.notFound()
	}
	return r, nil
}

func (b *Backend) volume(r record) backend.Volume {
	return backend.Volume{ID: r.ID, Name: r.Name, SizeBytes: r.SizeBytes, Parameters: r.Parameters,
		Topology: []backend.Segments{b.here()}, Attachment: r.Attachment, Source: r.Source, Origin: r.Origin}
}

func (b *Backend) here() backend.Segments { return backend.Segments{TopologyKey: b.opt.Node} }

// reaches tells whether any of the places is this node (or none is named).
func (b *Backend) reaches(places []backend.Segments) bool {
	if len(places) == 0 {
		return true
	}
	return slices.ContainsFunc(places, func(s backend.Segments) bool { return s[TopologyKey] == b.opt.Node })
}

// pickSize returns the smallest good size in [required, limit].
func pickSize(required, limit int64) (int64, error) {
	if required < 0 || limit < 0 || limit > 0 && limit < required {
		return 0, fmt.Errorf("%w: required %d, limit %d bytes", backend.ErrInvalid, required, limit)
	}
	size := max(required, MinVolumeBytes)
	if required == 0 {
		size = DefaultVolumeBytes
		if limit > 0 {
			size = min(size, limit/Align*Align)
		}
	}
	if size > MaxVolumeBytes {
		return 0, fmt.Errorf("%w: %d bytes, the greatest volume has %d", backend.ErrOutOfRange, size, int64(MaxVolumeBytes))
	}
	size = (size + Align - 1) / Align * Align
	if size < MinVolumeBytes || limit > 0 && size > limit {
		return 0, fmt.Errorf("%w: no multiple of %d bytes from %d on fits into the limit %d", backend.ErrOutOfRange, Align, max(required, MinVolumeBytes), limit)
	}
	return size, nil
}

// Create implements backend.Controller.
func (b *Backend) Create(ctx context.Context, spec backend.Spec) (backend.Volume, error) {
	if err := checkName(spec.Name); err != nil {
		return backend.Volume{}, err
	}
	if len(spec.Class)+len(spec.Mutable) > 0 {
		return backend.Volume{}, fmt.Errorf("%w: the local backend has no parameters", backend.ErrInvalid)
	}
	if s := spec.Source; s != nil && (s.Volume == "") == (s.Snapshot == "") {
		return backend.Volume{}, fmt.Errorf("%w: a source is a volume or a snapshot", backend.ErrInvalid)
	}
	if _, err := pickSize(spec.RequiredBytes, spec.LimitBytes); err != nil {
		return backend.Volume{}, err
	}
	r, err := b.made(ctx, &b.vols, spec.Name, func(old *record) (record, error) {
		if old != nil {
			return *old, b.sameVolume(*old, spec)
		}
		return b.plan(spec)
	})
	if err != nil {
		return backend.Volume{}, err
	}
	return b.volume(r), nil
}

// sameVolume compares a volume with what is asked for by its name.
func (b *Backend) sameVolume(r record, spec backend.Spec) error {
	same := r.Source == spec.Source || r.Source != nil && spec.Source != nil && *r.Source == *spec.Source
	if !same || r.SizeBytes < spec.RequiredBytes || spec.LimitBytes > 0 && r.SizeBytes > spec.LimitBytes ||
		!maps.Equal(r.Parameters, spec.Parameters) || !b.reaches(spec.Requisite) {
		return backend.ErrExists
	}
	return nil
}

// plan is the record of a volume that is to be made. The caller holds mu.
func (b *Backend) plan(spec backend.Spec) (record, error) {
	r := record{Version: recordVersion, ID: newID(volPrefix, spec.Name), Name: spec.Name, State: creating, Parameters: spec.Parameters, Source: spec.Source}
	required := spec.RequiredBytes
	if s := spec.Source; s != nil {
		from, err := b.source(*s)
		if err != nil {
			return r, fmt.Errorf("source: %w", err)
		}
		required = max(required, from.SizeBytes)
		if spec.LimitBytes > 0 && spec.LimitBytes < required {
			return r, fmt.Errorf("%w: the source has %d bytes, limit %d", backend.ErrOutOfRange, from.SizeBytes, spec.LimitBytes)
		}
		if r.Origin = from.Origin; r.Origin == "" {
			r.Origin = from.ID
		}
	}
	if !b.reaches(spec.Requisite) {
		return r, fmt.Errorf("%w: images lie on node %s only", backend.ErrTopology, b.opt.Node)
	}
	var err error
	r.SizeBytes, err = pickSize(required, spec.LimitBytes)
	return r, err
}

// source returns the record of what a volume is to be a copy of.
func (b *Backend) source(s backend.Source) (record, error) {
	if s.Snapshot != "" {
		return b.onShelf(&b.snaps, s.Snapshot)
	}
	return b.onShelf(&b.vols, s.Volume)
}

// made returns what a name stands for on a shelf, made now if it is missing: check gets the record that is there, or nil to
// plan a new one. A copy that is under way is waited for.
func (b *Backend) made(ctx context.Context, s *shelf, name string, check func(old *record) (record, error)) (record, error) {
	hash := hashName(name)
	for {
		if err := b.begin(ctx); err != nil {
			return record{}, err
		}
		j := b.jobs[s.prefix+hash]
		if j == nil {
			break
		}
		b.mu.Unlock()
		if err := j.wait(ctx); err != nil {
			return record{}, err
		}
	}
	r, err := b.load(s, hash)
	switch {
	case err == nil && r.State == ready:
		defer b.mu.Unlock()
		return check(&r)
	case err == nil: // an earlier call failed half way and was never acknowledged
		b.unindex(r)
		err = b.erase(r)
	case errors.Is(err, s.notFound()):
		err = nil
	}
	if err == nil {
		if r, err = check(nil); err == nil {
			err = b.fits(r.SizeBytes)
		}
	}
	if err != nil || r.Source == nil {
		defer b.mu.Unlock()
		if err == nil {
			err = b.make(r)
		}
		if err == nil {
			b.opt.Log.DebugContext(ctx, "image made", "volume", r.ID, "bytes", r.SizeBytes)
		}
		r.State = ready
		return r, err
	}
	j, err := b.copy(r)
	b.mu.Unlock()
	if err == nil {
		err = j.wait(ctx)
	}
	if err != nil {
		return record{}, err
	}
	b.opt.Log.DebugContext(ctx, "image copied", "volume", r.ID, "bytes", r.SizeBytes)
	return b.load(s, hash)
}

// make makes an empty volume. The caller holds mu.
func (b *Backend) make(r record) error {
	if err := b.save(r); err != nil {
		return err
	}
	if err := b.images.extend(imageFile(r.ID), r.SizeBytes, true); err != nil {
		return b.diskError(errors.Join(err, b.erase(r)))
	}
	return b.complete(r)
}

// complete makes what has its image known. The caller holds mu.
func (b *Backend) complete(r record) error {
	r.State = ready
	err := b.save(r)
	if err != nil {
		// The rename may or may not have happened: the index must agree with what a reader finds.
		s, hash := b.shelfOf(r.ID)
		if back, lerr := b.load(s, hash); lerr != nil || back.State != ready {
			return err
		}
	}
	if b.index(r) {
		b.promised += r.SizeBytes
	}
	return err
}

// index adds an id to the lists of what is ready; false if it is there.
func (b *Backend) index(r record) bool {
	s, _ := b.shelfOf(r.ID)
	var added bool
	if s.ids, added = insert(s.ids, r.ID); added && s == &b.snaps {
		b.of[r.Source.Volume], _ = insert(b.of[r.Source.Volume], r.ID)
	}
	return added
}

func insert(ids []string, id string) ([]string, bool) {
	i, found := slices.BinarySearch(ids, id)
	if found {
		return ids, false
	}
	return slices.Insert(ids, i, id), true
}

func (b *Backend) unindex(r record) {
	s, _ := b.shelfOf(r.ID)
	i, found := slices.BinarySearch(s.ids, r.ID)
	if !found {
		return
	}
	s.ids = slices.Delete(s.ids, i, i+1)
	b.promised -= r.SizeBytes
	if s == &b.snaps {
		of := b.of[r.Source.Volume]
		if i, found := slices.BinarySearch(of, r.ID); found {
			of = slices.Delete(of, i, i+1)
		}
		if b.of[r.Source.Volume] = of; len(of) == 0 {
			delete(b.of, r.Source.Volume)
		}
	}
}

// diskError names a full disk as such.
func (b *Backend) diskError(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
		return fmt.Errorf("%w: %w", backend.ErrNoSpace, err)
	}
	return err
}

// limit is how many bytes may be promised in all.
func (b *Backend) limit() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(b.images.dir.Fd()), &st); err != nil {
		return 0, err
	}
	// Blocks reserved for root are not counted: the driver may run without that privilege.
	blocks := st.Blocks - (st.Bfree - st.Bavail)
	total := float64(blocks) * float64(st.Bsize) * b.opt.Overcommit
	return int64(min(total, float64(math.MaxInt64/2))), nil
}

func (b *Backend) fits(more int64) error {
	limit, err := b.limit()
	if err != nil {
		return err
	}
	if more > limit-b.promised {
		return fmt.Errorf("%w: %d bytes asked for, %d of %d promised already", backend.ErrNoSpace, more, b.promised, limit)
	}
	return nil
}

// Delete implements backend.Controller.
func (b *Backend) Delete(ctx context.Context, id string) error { return b.discard(ctx, &b.vols, id) }

func (b *Backend) discard(ctx context.Context, s *shelf, id string) error {
	hash, ok := hashOfID(s.prefix, id)
	if !ok {
		return nil
	}
	if err := b.begin(ctx); err != nil {
		return err
	}
	defer b.mu.Unlock()
	r, err := b.load(s, hash)
	if errors.Is(err, s.notFound()) || err == nil && r.ID != id {
		return nil
	}
	if err != nil {
		return err
	}
	if r.Attachment != nil {
		return fmt.Errorf("%w: attached to a node", backend.ErrBusy)
	}
	if b.sources[id] > 0 || b.jobs[s.prefix+hash] != nil {
		return fmt.Errorf("%w: it is being copied", backend.ErrBusy)
	}
	if err := b.unlocked(r); err != nil {
		return err
	}
	if r.State == ready {
		r.State = deleting
		if err := b.save(r); err != nil {
			return err
		}
	}
	b.unindex(r)
	if err := b.erase(r); err != nil {
		return err
	}
	b.opt.Log.DebugContext(ctx, "image deleted", "volume", id, "bytes", r.SizeBytes)
	return nil
}

// unlocked finds that no mount server has an image open, whatever the record says.
func (b *Backend) unlocked(r record) error {
	f, err := b.images.openat(imageFile(r.ID), unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil // what cannot be opened is locked by nobody, and may be deleted
	}
	defer f.Close()
	if errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK) {
		return fmt.Errorf("%w: a mount server has it open", backend.ErrBusy)
	}
	return nil
}

// Get implements backend.Controller.
func (b *Backend) Get(ctx context.Context, id string) (backend.Volume, error) {
	if err := ctx.Err(); err != nil {
		return backend.Volume{}, err
	}
	r, err := b.byID(id)
	if err != nil {
		return backend.Volume{}, err
	}
	return b.volume(r), nil
}

// List implements backend.Controller. The token is the last id of the page before.
func (b *Backend) List(ctx context.Context, token string, most int) ([]backend.Volume, string, error) {
	return list(ctx, b, &b.vols, token, most, func() []string { return b.vols.ids }, b.volume)
}

// list is a page of what ids, called with mu held, has on a shelf.
func list[T any](ctx context.Context, b *Backend, s *shelf, token string, most int, ids func() []string, show func(record) T) ([]T, string, error) {
	if _, ok := hashOfID(s.prefix, token); token != "" && !ok {
		return nil, "", backend.ErrBadToken
	}
	if most < 0 {
		return nil, "", fmt.Errorf("%w: negative page size", backend.ErrInvalid)
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
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, "", err
		}
		out = append(out, show(r))
	}
	return out, next, nil
}

// Attach implements backend.Controller. An image is at hand on its own node; what is recorded is who may use it.
func (b *Backend) Attach(ctx context.Context, id, node string, readOnly bool) (map[string]string, error) {
	if err := b.begin(ctx); err != nil {
		return nil, err
	}
	defer b.mu.Unlock()
	r, err := b.byID(id)
	switch a := r.Attachment; {
	case err != nil:
		return nil, err
	case node != b.opt.Node:
		if a != nil && a.Node != node {
			return nil, backend.ErrAttachedElsewhere
		}
		return nil, backend.ErrNodeNotFound
	case a != nil && a.Node != node:
		return nil, backend.ErrAttachedElsewhere
	case a != nil && a.ReadOnly != readOnly:
		return nil, backend.ErrAttachedOtherwise
	case a != nil:
		return nil, nil
	case b.opt.MaxVolumes > 0 && b.attached >= b.opt.MaxVolumes:
		return nil, backend.ErrTooManyAttached
	}
	r.Attachment = &backend.Attachment{Node: node, ReadOnly: readOnly}
	return nil, b.saveAttachment(ctx, r, 1)
}

// saveAttachment writes the record and keeps the count right even when it is unknown whether the write took.
func (b *Backend) saveAttachment(ctx context.Context, r record, delta int64) error {
	err := b.save(r)
	if err != nil {
		back, lerr := b.byID(r.ID)
		if lerr != nil || (back.Attachment == nil) != (r.Attachment == nil) {
			return err
		}
	}
	b.attached += delta
	b.opt.Log.DebugContext(ctx, "attachment recorded", "volume", r.ID, "attached", r.Attachment != nil)
	return err
}

// Detach implements backend.Controller.
func (b *Backend) Detach(ctx context.Context, id, node string) error {
	if err := b.begin(ctx); err != nil {
		return err
	}
	defer b.mu.Unlock()
	r, err := b.byID(id)
	if errors.Is(err, backend.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if r.Attachment == nil || node != "" && r.Attachment.Node != node {
		return nil
	}
	r.Attachment = nil
	return b.saveAttachment(ctx, r, -1)
}

// Expand implements backend.Controller.
func (b *Backend) Expand(ctx context.Context, id string, required, limit int64) (int64, error) {
	if required <= 0 && limit <= 0 {
		return 0, fmt.Errorf("%w: no size given", backend.ErrInvalid)
	}
	if err := b.begin(ctx); err != nil {
		return 0, err
	}
	defer b.mu.Unlock()
	r, err := b.byID(id)
	if err != nil {
		return 0, err
	}
	size, err := pickSize(max(required, r.SizeBytes), 0)
	if err != nil {
		return 0, err
	}
	if limit > 0 && size > limit {
		return 0, fmt.Errorf("%w: %d bytes needed, limit %d", backend.ErrOutOfRange, size, limit)
	}
	if limit < 0 || required < 0 {
		return 0, fmt.Errorf("%w: negative size", backend.ErrInvalid)
	}
	if size == r.SizeBytes { // perhaps an earlier call was cut off after its record
		return size, b.images.extend(imageFile(id), size, false)
	}
	if err := b.fits(size - r.SizeBytes); err != nil {
		return 0, err
	}
	old := r.SizeBytes
	r.SizeBytes = size
	err = b.save(r)
	if back, lerr := b.byID(id); lerr == nil {
		b.promised += back.SizeBytes - old
	}
	if err != nil {
		return 0, err
	}
	// A failure from here on is repaired by repeating the call, or by Open.
	if err := b.images.extend(imageFile(id), size, false); err != nil {
		return 0, b.diskError(err)
	}
	b.opt.Log.DebugContext(ctx, "image grown", "volume", id, "bytes", size)
	return size, nil
}

// Capacity implements backend.Controller.
func (b *Backend) Capacity(ctx context.Context, where backend.Segments) (backend.Capacity, error) {
	c := backend.Capacity{MinVolumeBytes: MinVolumeBytes, MaxVolumeBytes: MaxVolumeBytes}
	if where != nil && !b.reaches([]backend.Segments{where}) {
		return c, nil
	}
	if err := ctx.Err(); err != nil {
		return c, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	limit, err := b.limit()
	c.AvailableBytes = max(0, limit-b.promised) / Align * Align
	c.MaxVolumeBytes = min(c.MaxVolumeBytes, c.AvailableBytes)
	return c, err
}

// Health implements backend.Controller.
func (b *Backend) Health(ctx context.Context, id string) ([]backend.Condition, error) {
	r, err := b.byID(id)
	if err != nil {
		return nil, err
	}
	_, err = b.image(r)
	if errors.Is(err, unix.ENOENT) {
		return []backend.Condition{{Lost: true, Inaccessible: true, Reason: "ImageMissing", Message: "the image file does not exist"}}, nil
	}
	if errors.Is(err, backend.ErrDamaged) {
		return []backend.Condition{{Inaccessible: true, Reason: "ImageDamaged", Message: err.Error()}}, nil
	}
	return nil, err
}

// Info implements backend.Node.
func (b *Backend) Info(context.Context) (backend.NodeInfo, error) {
	return backend.NodeInfo{ID: b.opt.Node, Topology: b.here(), MaxVolumes: b.opt.MaxVolumes}, nil
}

// Device implements backend.Node.
func (b *Backend) Device(ctx context.Context, id string, _ map[string]string) (backend.Device, error) {
	if err := ctx.Err(); err != nil {
		return backend.Device{}, err
	}
	r, err := b.byID(id)
	if err != nil {
		return backend.Device{}, err
	}
	if r.Attachment == nil || r.Attachment.Node != b.opt.Node {
		return backend.Device{}, backend.ErrNotAttached
	}
	dev, err := b.image(r)
	if errors.Is(err, unix.ENOENT) {
		return backend.Device{}, fmt.Errorf("%w: its image does not exist", backend.ErrDamaged)
	}
	dev.ReadOnly = r.Attachment.ReadOnly
	return dev, err
}

// image finds and checks the image of a volume.
func (b *Backend) image(r record) (backend.Device, error) {
	f, err := b.images.openat(imageFile(r.ID), unix.O_RDONLY, 0)
	if errors.Is(err, unix.ELOOP) {
		return backend.Device{}, fmt.Errorf("%w: its image is a symbolic link", backend.ErrDamaged)
	}
	if err != nil {
		return backend.Device{}, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return backend.Device{}, err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return backend.Device{}, fmt.Errorf("%w: its image is not a regular file", backend.ErrDamaged)
	case st.Nlink != 1:
		return backend.Device{}, fmt.Errorf("%w: its image has %d names", backend.ErrDamaged, st.Nlink)
	case st.Size < r.SizeBytes:
		return backend.Device{}, fmt.Errorf("%w: its image has %d bytes instead of %d", backend.ErrDamaged, st.Size, r.SizeBytes)
	}
	return backend.Device{Path: filepath.Join(b.dirOf("images"), imageFile(r.ID)), SizeBytes: r.SizeBytes,
		Dev: st.Dev, Ino: st.Ino}, nil
}
