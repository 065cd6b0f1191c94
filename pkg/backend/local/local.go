package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	// NodeOnly opens for Device and Info alone, beside another process that owns the directory.
	NodeOnly bool

	// Hook, if not nil, is called before every change on the disk; an error ends it. For tests.
	Hook func(step string) error
}

// Backend is the local backend. Use Open.
type Backend struct {
	opt             Options
	lock            *os.File
	records, images disk

	mu       sync.Mutex
	ids      []string // sorted; volumes in state ready. Guarded by mu, as are the next two.
	promised int64    // bytes
	attached int64    // volumes
	unsure   bool     // a step failed, so that what is on the disk may not be durable yet
}

var _ backend.Backend = (*Backend)(nil)

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
	opt.Dir = dir
	b := &Backend{opt: opt}
	if err := b.open(ctx); err != nil {
		return nil, fmt.Errorf("open local backend in %s: %w", dir, errors.Join(err, b.Close()))
	}
	return b, nil
}

func (b *Backend) open(ctx context.Context) error {
	for _, d := range []string{b.opt.Dir, b.dirOf("volumes"), b.dirOf("images")} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	for d, name := range map[*disk]string{&b.records: "volumes", &b.images: "images"} {
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

// Close gives the directory up.
func (b *Backend) Close() error {
	for _, f := range []*os.File{b.records.dir, b.images.dir, b.lock} {
		if f != nil {
			f.Close()
		}
	}
	return nil
}

// recover builds the index and finishes what a crash left undone.
func (b *Backend) recover() error {
	names, err := b.records.dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".tmp") {
			if err := b.records.remove(name); err != nil {
				return err
			}
			continue
		}
		hash, ok := strings.CutSuffix(name, ".json")
		if !ok || len(hash) != nameHash || !isHex(hash) {
			continue
		}
		r, err := b.load(hash)
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
	slices.Sort(b.ids)
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
	b.ids = append(b.ids, r.ID)
	b.promised += r.SizeBytes
	if r.Attachment != nil {
		b.attached++
	}
	return nil
}

// erase deletes a volume that is creating or deleting.
func (b *Backend) erase(r record) error {
	hash, _ := hashOfID(r.ID)
	err := b.images.remove(imageFile(r.ID))
	if err == nil {
		err = b.records.remove(recordFile(hash))
	}
	if err != nil {
		b.unsure = true
	}
	return err
}

// load reads a record; ErrNotFound if there is none.
func (b *Backend) load(hash string) (record, error) {
	raw, err := b.records.read(recordFile(hash), maxRecordBytes)
	if errors.Is(err, unix.ENOENT) {
		return record{}, backend.ErrNotFound
	}
	if err != nil {
		return record{}, err
	}
	return decodeRecord(raw, hash)
}

func (b *Backend) save(r record) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(raw) > maxRecordBytes {
		return fmt.Errorf("%w: parameters too long", backend.ErrInvalid)
	}
	hash, _ := hashOfID(r.ID)
	if err := b.records.replace(recordFile(hash), raw); err != nil {
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
	if err == nil && b.unsure {
		if err = errors.Join(b.records.sync(), b.images.sync()); err == nil {
			b.unsure = false
		}
	}
	if err != nil {
		b.mu.Unlock()
	}
	return err
}

// byID returns a ready volume's record.
func (b *Backend) byID(id string) (record, error) {
	hash, ok := hashOfID(id)
	if !ok {
		return record{}, backend.ErrNotFound
	}
	r, err := b.load(hash)
	if err != nil {
		return record{}, err
	}
	if r.ID != id || r.State != ready {
		return record{}, backend.ErrNotFound
	}
	return r, nil
}

func (b *Backend) volume(r record) backend.Volume {
	return backend.Volume{ID: r.ID, Name: r.Name, SizeBytes: r.SizeBytes, Parameters: r.Parameters,
		Topology: []backend.Segments{b.here()}, Attachment: r.Attachment}
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
	size, err := pickSize(spec.RequiredBytes, spec.LimitBytes)
	if err != nil {
		return backend.Volume{}, err
	}
	if err := b.begin(ctx); err != nil {
		return backend.Volume{}, err
	}
	defer b.mu.Unlock()
	r, err := b.load(hashName(spec.Name))
	switch {
	case err == nil && r.State == ready:
		return b.existing(r, spec)
	case err == nil: // an earlier call failed half way and was never acknowledged
		b.unindex(r)
		if err := b.erase(r); err != nil {
			return backend.Volume{}, err
		}
	case !errors.Is(err, backend.ErrNotFound):
		return backend.Volume{}, err
	}
	if !b.reaches(spec.Requisite) {
		return backend.Volume{}, fmt.Errorf("%w: images lie on node %s only", backend.ErrTopology, b.opt.Node)
	}
	if err := b.fits(size); err != nil {
		return backend.Volume{}, err
	}
	return b.make(record{Version: recordVersion, ID: newID(spec.Name), Name: spec.Name,
		State: creating, SizeBytes: size, Parameters: spec.Parameters})
}

func (b *Backend) existing(r record, spec backend.Spec) (backend.Volume, error) {
	if r.SizeBytes < spec.RequiredBytes || spec.LimitBytes > 0 && r.SizeBytes > spec.LimitBytes ||
		!maps.Equal(r.Parameters, spec.Parameters) || !b.reaches(spec.Requisite) {
		return backend.Volume{}, backend.ErrExists
	}
	return b.volume(r), nil
}

func (b *Backend) make(r record) (backend.Volume, error) {
	if err := b.save(r); err != nil {
		return backend.Volume{}, err
	}
	if err := b.images.extend(imageFile(r.ID), r.SizeBytes, true); err != nil {
		return backend.Volume{}, b.diskError(errors.Join(err, b.erase(r)))
	}
	r.State = ready
	if err := b.save(r); err != nil {
		// The rename may or may not have happened: the index must agree with what a reader finds.
		if back, lerr := b.load(hashName(r.Name)); lerr != nil || back.State != ready {
			return backend.Volume{}, err
		}
		b.index(r)
		return backend.Volume{}, err
	}
	b.index(r)
	return b.volume(r), nil
}

func (b *Backend) index(r record) {
	i, found := slices.BinarySearch(b.ids, r.ID)
	if !found {
		b.ids = slices.Insert(b.ids, i, r.ID)
		b.promised += r.SizeBytes
	}
}

func (b *Backend) unindex(r record) {
	i, found := slices.BinarySearch(b.ids, r.ID)
	if found {
		b.ids = slices.Delete(b.ids, i, i+1)
		b.promised -= r.SizeBytes
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
func (b *Backend) Delete(ctx context.Context, id string) error {
	hash, ok := hashOfID(id)
	if !ok {
		return nil
	}
	if err := b.begin(ctx); err != nil {
		return err
	}
	defer b.mu.Unlock()
	r, err := b.load(hash)
	if errors.Is(err, backend.ErrNotFound) || err == nil && r.ID != id {
		return nil
	}
	if err != nil {
		return err
	}
	if r.Attachment != nil {
		return fmt.Errorf("%w: attached to a node", backend.ErrBusy)
	}
	if r.State == ready {
		r.State = deleting
		if err := b.save(r); err != nil {
			return err
		}
	}
	b.unindex(r)
	return b.erase(r)
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
	if _, ok := hashOfID(token); token != "" && !ok {
		return nil, "", backend.ErrBadToken
	}
	if most < 0 {
		return nil, "", fmt.Errorf("%w: negative page size", backend.ErrInvalid)
	}
	b.mu.Lock()
	from, found := slices.BinarySearch(b.ids, token)
	if found {
		from++
	}
	page, next := b.ids[from:], ""
	if most > 0 && len(page) > most {
		page = page[:most]
		next = page[most-1]
	}
	page = slices.Clone(page)
	b.mu.Unlock()
	var vols []backend.Volume
	for _, id := range page {
		v, err := b.Get(ctx, id)
		if errors.Is(err, backend.ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, "", err
		}
		vols = append(vols, v)
	}
	return vols, next, nil
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
	return nil, b.saveAttachment(r, 1)
}

// saveAttachment writes the record and keeps the count right even when it is unknown whether the write took.
func (b *Backend) saveAttachment(r record, delta int64) error {
	err := b.save(r)
	if err != nil {
		back, lerr := b.byID(r.ID)
		if lerr != nil || (back.Attachment == nil) != (r.Attachment == nil) {
			return err
		}
	}
	b.attached += delta
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
	return b.saveAttachment(r, -1)
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
