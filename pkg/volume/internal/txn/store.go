package txn

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// ErrDevice wraps errors of the device.
var ErrDevice = errors.New("device error")

// Keys are the epochs in a volume's slots, by number. A rotation changes them while they are in
// use.
type Keys struct {
	mu  sync.Mutex // of changes
	set atomic.Pointer[keySet]
}

// keySet is the content of a Keys at one time. It never changes.
type keySet struct {
	epochs map[uint32]*crypto.EpochKeys
	newest *crypto.EpochKeys
}

// NewKeys makes a set of at least one epoch.
func NewKeys(epochs ...*crypto.EpochKeys) *Keys {
	k := &Keys{}
	k.set.Store(&keySet{})
	for _, e := range epochs {
		k.Add(e)
	}
	return k
}

// Newest is the epoch under which everything is sealed.
func (k *Keys) Newest() *crypto.EpochKeys { return k.set.Load().newest }

// Get returns the keys of an epoch, nil if there are none.
func (k *Keys) Get(epoch uint32) *crypto.EpochKeys { return k.set.Load().epochs[epoch] }

// Add adds an epoch. If it is the highest, everything is sealed under it from now on.
func (k *Keys) Add(e *crypto.EpochKeys) {
	k.change(func(s *keySet) { s.epochs[e.Epoch()] = e })
}

// DropBelow erases the epochs below epoch. Nobody may need them any more.
func (k *Keys) DropBelow(epoch uint32) {
	var old []*crypto.EpochKeys
	k.change(func(s *keySet) {
		for n, e := range s.epochs {
			if n < epoch {
				old = append(old, e)
				delete(s.epochs, n)
			}
		}
	})
	for _, e := range old {
		e.Erase()
	}
}

func (k *Keys) change(fn func(*keySet)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := &keySet{epochs: map[uint32]*crypto.EpochKeys{}}
	maps.Copy(s.epochs, k.set.Load().epochs)
	fn(s)
	for n, e := range s.epochs {
		if s.newest == nil || n > s.newest.Epoch() {
			s.newest = e
		}
	}
	k.set.Store(s)
}

// All calls fn for each epoch, the newest first, until it returns true.
func (k *Keys) All(fn func(*crypto.EpochKeys) bool) {
	s := k.set.Load()
	for _, n := range slices.Backward(slices.Sorted(maps.Keys(s.epochs))) {
		if fn(s.epochs[n]) {
			return
		}
	}
}

// Erase erases the keys.
func (k *Keys) Erase() {
	for _, e := range k.set.Load().epochs {
		e.Erase()
	}
}

// Store reads and writes sealed extents.
type Store struct {
	Dev  device.Device
	Keys *Keys

	rootMu  sync.Mutex // held while roots are written or repaired
	syncMu  sync.Mutex
	syncErr error // of the first failed barrier
}

// bufs are aligned buffers of WriteBytes.
var bufs = sync.Pool{New: func() any { b := device.AlignedBytes(WriteBytes); return &b }}

// WriteBytes is the size that a commit's writes aim at, and the size of buffers.
const WriteBytes = 256 << 10

// GetBuffer returns an aligned buffer of WriteBytes.
func GetBuffer() *[]byte { return bufs.Get().(*[]byte) }

// PutBuffer returns a buffer to the pool.
func PutBuffer(b *[]byte) { bufs.Put(b) }

// ReadRun opens segments [from, from+count) of r's run into dst, which must have their length. It
// returns only verified bytes.
func (s *Store) ReadRun(r *layout.Record, from, count int, dst []byte) error {
	sub := r
	if from != 0 || count != r.Count() {
		x := r.Slice(from, count)
		sub = &x
	}
	if len(dst) != sub.RunBytes() {
		panic("txn: buffer does not match the run")
	}
	keys := s.Keys.Get(sub.Epoch)
	if keys == nil {
		return fmt.Errorf("%w: unknown key epoch %d of an extent", layout.ErrCorrupt, sub.Epoch)
	}
	if err := s.readAt(dst, sub.Addr); err != nil {
		clear(dst)
		return err
	}
	if err := keys.OpenSegments(&sub.Extent, sub.First, count, dst, dst, sub.Tags); err != nil {
		return fmt.Errorf("%w: extent at %d does not verify", layout.ErrCorrupt, sub.Addr)
	}
	return nil
}

func (s *Store) readAt(b []byte, addr uint64) error {
	if n, err := s.Dev.ReadAt(b, int64(addr)); err != nil {
		if errors.Is(err, io.EOF) && n == len(b) {
			return nil
		}
		return fmt.Errorf("%w: read %d bytes at %d: %w", ErrDevice, len(b), addr, err)
	}
	return nil
}

// ReadNode reads the page behind p. If the first copy is damaged, it reads the second.
func (s *Store) ReadNode(p *layout.Pointer) ([]byte, error) {
	b := device.AlignedBytes(layout.NodeBytes)
	err := s.ReadRun(&p.Record, 0, 1, b)
	if err != nil && p.Addr2 != 0 {
		second := p.Record
		second.Addr = p.Addr2
		if s.ReadRun(&second, 0, 1, b) == nil {
			return b, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// NodeCopies returns the error of each copy of the page behind p, and the page if one copy is
// intact. If there is only one copy, second is nil.
func (s *Store) NodeCopies(p *layout.Pointer) (page []byte, first, second error) {
	one := layout.Pointer{Record: p.Record}
	page, first = s.ReadNode(&one)
	if p.Addr2 == 0 {
		return page, first, nil
	}
	one.Addr = p.Addr2
	b, second := s.ReadNode(&one)
	if first != nil {
		page = b
	}
	return page, first, second
}

// MendNode rewrites the damaged copy of a page, the first or the second, with the bytes of the
// other one: same nonce, same ciphertext. I1 allows it, because nothing changes for readers of the
// page: the intact copy is not touched, and the damaged one stays damaged until the bytes are
// written. The caller holds a pin on a root that reaches the page, so that its blocks belong to
// nothing else. The bytes are durable before MendNode returns, so that they cannot overtake a later
// owner's write.
func (s *Store) MendNode(p *layout.Pointer, first bool) error {
	whole := layout.Pointer{Record: p.Record}
	bad := p.Addr
	if whole.Addr = p.Addr2; !first {
		whole.Addr, bad = p.Addr, p.Addr2
	}
	sealed := device.AlignedBytes(layout.NodeBytes)
	if err := s.readAt(sealed, whole.Addr); err != nil {
		return err
	}
	// Verify what was read this time.
	keys := s.Keys.Get(p.Epoch)
	if keys == nil || keys.OpenSegments(&p.Extent, 0, 1, device.AlignedBytes(layout.NodeBytes), sealed, p.Tags) != nil {
		return fmt.Errorf("%w: extent at %d does not verify", layout.ErrCorrupt, whole.Addr)
	}
	return s.Mend(sealed, bad)
}

// Write writes b at a byte address.
func (s *Store) Write(b []byte, addr uint64) error {
	if _, err := s.Dev.WriteAt(b, int64(addr)); err != nil {
		return fmt.Errorf("%w: write %d bytes at %d: %w", ErrDevice, len(b), addr, err)
	}
	return nil
}

// Sync is the barrier. The device reports a lost write to one caller only (package device). So
// barriers are serialized, and after a failed one all fail.
func (s *Store) Sync() error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	if s.syncErr == nil {
		if err := s.Dev.Sync(); err != nil {
			s.syncErr = fmt.Errorf("%w: flush: %w", ErrDevice, err)
		}
	}
	return s.syncErr
}

// SealNode seals a page into dst for generation gen.
func (s *Store) SealNode(tree uint64, level uint8, gen uint64, page, dst []byte) (layout.Record, error) {
	return s.seal(crypto.Extent{Kind: layout.KindNode, Level: level, Object: tree, Birth: gen,
		PLen: layout.NodeBytes, LLen: layout.NodeBytes}, page, dst)
}

// SealData seals a run of a file's blocks, in segments of one block. index is
// the file block.
func (s *Store) SealData(ino, index, gen uint64, payload, dst []byte) (layout.Record, error) {
	return s.seal(crypto.Extent{Kind: layout.KindFileData, Shift: 12, Object: ino, Index: index, Birth: gen,
		PLen: uint32(len(payload)), LLen: uint32(len(payload))}, payload, dst)
}

// seal seals an extent. SealExtent draws a new nonce from the kernel's random numbers for each
// call, so it never repeats.
func (s *Store) seal(e crypto.Extent, payload, dst []byte) (layout.Record, error) {
	k := s.Keys.Newest()
	e.Epoch = k.Epoch()
	r := layout.Record{Extent: e}
	r.Tags = make([]crypto.Tag, e.Segments())
	if err := k.SealExtent(&r.Extent, dst[:e.PaddedBytes()], r.Tags, payload); err != nil {
		return r, err
	}
	return r, nil
}

// SealFreeList seals one piece of a free list.
func (s *Store) SealFreeList(gen uint64, plain []byte) (layout.Record, []byte, error) {
	e := crypto.Extent{Kind: layout.KindFreeList, Birth: gen, PLen: uint32(len(plain)), LLen: uint32(len(plain))}
	dst := device.AlignedBytes(e.PaddedBytes())
	r, err := s.seal(e, plain, dst)
	return r, dst, err
}
