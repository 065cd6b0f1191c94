package doublecrypt

import (
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// IsVolume tells whether a device begins with the magic of format v1. A volume of another version
// has the same magic, but does not open.
func IsVolume(dev device.Device) (bool, error) {
	b, err := firstBytes(dev)
	if err != nil {
		return false, err
	}
	return len(b) >= frameBytes+len(magic) && [8]byte(b[frameBytes:]) == magic, nil
}

// firstBytes reads the first sector, or the existing part of it.
func firstBytes(dev device.Device) ([]byte, error) {
	size, err := dev.Size()
	if err != nil {
		return nil, ioError(err)
	}
	b := device.AlignedBytes(device.SectorBytes)
	n := min(int64(len(b)), size)
	if n == 0 {
		return nil, nil
	}
	return b[:n], readFull(dev, b, 0, int(n))
}

// readHeader reads block 0, which contains the block size.
func readHeader(dev device.Device) (header, *blocks, error) {
	b, err := firstBytes(dev)
	if err != nil {
		return header{}, nil, err
	}
	p := payload(b)
	if p == nil {
		return header{}, nil, &Error{Variant: InvalidSuperblock, err: vfs.ErrCorrupt}
	}
	h, err := decodeHeader(p)
	if err != nil {
		return header{}, nil, err
	}
	blk, err := newBlocks(dev, int(h.blockSize))
	if err != nil {
		return header{}, nil, err
	}
	if h.totalBlocks > blk.count || h.totalBlocks <= firstObject || h.totalBlocks > maxBlocks {
		return header{}, nil, &Error{Variant: InvalidSuperblock, Value: h.totalBlocks, Max: blk.count,
			err: fmt.Errorf("the header has %d blocks, but the device has %d: %w", h.totalBlocks, blk.count, vfs.ErrCorrupt)}
	}
	blk.count = min(blk.count, maxBlocks)
	return h, blk, nil
}

// maxBlocks limits the bitmaps to half a GiB.
const maxBlocks = 1 << 32

// candidate is a root slot that can be decoded.
type candidate struct {
	slot    uint64
	pointer rootPointer
}

func slotName(slot uint64) string {
	if slot == slotBlockA {
		return "A"
	}
	return "B"
}

// readSlots returns the slots that can be decoded, the preferred one first.
func readSlots(b *blocks) (list []candidate, err error) {
	buf := b.buffer(1)
	for _, slot := range []uint64{slotBlockB, slotBlockA} { // B is preferred if they are equal
		if err := b.read(slot, buf); err != nil {
			return nil, err
		}
		p := payload(buf)
		if p == nil {
			continue
		}
		if r, err := decodeRootPointer(p); err == nil {
			list = append(list, candidate{slot, r})
		}
	}
	if len(list) == 0 {
		return nil, &Error{Variant: InvalidRootPointer, err: vfs.ErrCorrupt}
	}
	if len(list) == 2 && list[1].pointer.generation > list[0].pointer.generation {
		list[0], list[1] = list[1], list[0]
	}
	return list, nil
}

// openRoot verifies the superblock of a slot, its checksum, and the inode of the root directory.
func (w *walker) openRoot(c candidate) (s superblock, root *node, err error) {
	if err := w.claim(c.pointer.superblock); err != nil {
		return s, nil, err
	}
	plain, err := w.blk.object(c.pointer.superblock, w.key, kindSuperblock, w.buf)
	if err != nil {
		return s, nil, err
	}
	if s, err = decodeSuperblock(plain); err != nil {
		return s, nil, err
	}
	if s.checksum() != c.pointer.checksum {
		return s, nil, &Error{Variant: InvalidSuperblock, err: vfs.ErrCorrupt}
	}
	root, err = w.rootNode(s.root)
	return s, root, err
}

// found is the valid root of a volume, and how it was chosen.
type found struct {
	head     header
	blk      *blocks
	walk     *walker // has claimed the superblock and the root's inode
	root     *node
	super    superblock
	used     candidate
	other    *candidate // the other slot, if it decodes
	fallback error
	maxSeen  uint64
}

// find chooses the newest root that verifies (I4). If the device returns an error, the root may be
// intact and readable the next time. In that case, the volume is not opened for writing.
func find(dev device.Device, key *crypto.DoublecryptKey, readOnly bool) (*found, error) {
	f := &found{}
	var err error
	if f.head, f.blk, err = readHeader(dev); err != nil {
		return nil, err
	}
	slots, err := readSlots(f.blk)
	if err != nil {
		return nil, err
	}
	f.maxSeen = slots[0].pointer.generation
	sealed := 0 // superblocks that cannot be decrypted
	for i, c := range slots {
		f.walk = newWalker(f.blk, key)
		s, root, err := f.walk.openRoot(c)
		if err == nil {
			f.used, f.super, f.root = c, s, root
			if i == 0 && len(slots) == 2 {
				f.other = &slots[1]
			}
			return f, nil
		}
		if f.fallback == nil {
			f.fallback = err
		}
		if e := (*Error)(nil); errors.As(err, &e) && e.Variant == Decryption {
			sealed++
		}
		if errors.Is(err, vfs.ErrIO) && !readOnly {
			break
		}
	}
	if sealed == len(slots) {
		return nil, &Error{Variant: Decryption, err: fmt.Errorf("%w, or all roots are damaged", crypto.ErrWrongKey)}
	}
	return nil, f.fallback
}

// Open opens the volume on dev. The caller keeps ownership of the key, which must remain valid
// until Close. If the newer root does not verify, Open uses the older one. A damaged volume can be
// opened only for reading, because blocks below the damage look free.
func Open(dev device.Device, key *crypto.DoublecryptKey, opts Options) (*Volume, error) {
	f, err := find(dev, key, opts.ReadOnly)
	if err != nil {
		return nil, err
	}
	w := f.walk
	w.tree(f.root)
	if w.count > 0 && !opts.ReadOnly {
		return nil, w.first
	}
	if f.used.pointer.generation >= 1<<63 || f.maxSeen >= 1<<63 {
		if !opts.ReadOnly {
			return nil, corrupt(InvalidRootPointer, "root pointer", fmt.Errorf("generation %d", f.maxSeen))
		}
	}
	v := newVolume(f.blk, f.head.totalBlocks, key, opts)
	v.nodes, v.root, v.depths = w.nodes, f.root, w.depths
	v.nextIno = uint64(vfs.RootIno) + 1
	for ino := range v.nodes {
		v.nextIno = max(v.nextIno, uint64(ino)+1)
	}
	v.state = rootState{f.used.pointer, f.used.slot, f.maxSeen}
	v.opened = OpenReport{Generation: f.used.pointer.generation, SuperblockGeneration: f.super.generation, Slot: slotName(f.used.slot),
		Fallback: f.fallback, Damage: w.problems, DamageCount: w.count,
		Checksum: f.used.pointer.checksum, Hidden: w.hidden}
	if f.fallback != nil && opts.Log != nil {
		opts.Log.Warn("the newer root does not verify; using the older one", "generation", f.used.pointer.generation, "error", f.fallback)
	}
	v.free(w.used, f.olderBlocks(key))
	return v, nil
}

// olderBlocks returns the blocks that only the other root refers to, if that root is intact. A
// later mount may fall back to it.
func (f *found) olderBlocks(key *crypto.DoublecryptKey) bitset {
	if f.other == nil || f.other.pointer.superblock == f.used.pointer.superblock {
		return nil
	}
	w := newWalker(f.blk, key)
	w.skip = f.walk.used
	_, root, err := w.openRoot(*f.other)
	if err != nil {
		return nil
	}
	w.tree(root)
	if w.count > 0 {
		return nil
	}
	return w.used
}

// free initialises the allocator and the quarantine.
func (v *Volume) free(used, older bitset) {
	v.alloc = newAllocator(v.total, used, older)
	for i, w := range older {
		for w &^= used[i]; w != 0; w &= w - 1 {
			v.quarantine = append(v.quarantine, uint64(i*64+bits.TrailingZeros64(w)))
		}
	}
}

// Info contains the unsealed properties of a volume.
type Info struct {
	BlockBytes     int
	TotalBlocks    uint64
	DeviceBlocks   uint64
	Slots          []SlotInfo
	MaxFileBytes   uint64 // approximately
	MaxObjectBytes int
}

// SlotInfo is a root slot.
type SlotInfo struct {
	Slot       string
	Valid      bool // it can be decoded
	Generation uint64
}

// ReadInfo reads the unsealed structures. Nothing of the result is authenticated.
func ReadInfo(dev device.Device) (*Info, error) {
	h, b, err := readHeader(dev)
	if err != nil {
		return nil, err
	}
	i := &Info{BlockBytes: b.size, TotalBlocks: h.totalBlocks, DeviceBlocks: b.count, MaxObjectBytes: maxPlain(b.size)}
	if b.size > chunkLess {
		each := varintLen(uint64(i.MaxObjectBytes)) + varintLen(b.count-1) + varintLen(uint64(b.size-chunkLess))
		i.MaxFileBytes = uint64(i.MaxObjectBytes/each) * uint64(b.size-chunkLess)
	}
	buf := b.buffer(1)
	for _, slot := range []uint64{slotBlockA, slotBlockB} {
		if err := b.read(slot, buf); err != nil {
			return nil, err
		}
		s := SlotInfo{Slot: slotName(slot)}
		if p := payload(buf); p != nil {
			if r, err := decodeRootPointer(p); err == nil {
				s.Valid, s.Generation = true, r.generation
			}
		}
		i.Slots = append(i.Slots, s)
	}
	return i, nil
}

// FillRandom overwrites a whole device with random bytes, as the reference implementation does with
// new images. Then nobody without the key can tell how full a volume is. If random is nil, the
// system's random numbers are used.
func FillRandom(dev device.Device, random io.Reader, progress func(done, total uint64)) error {
	size, err := dev.Size()
	if err != nil {
		return ioError(err)
	}
	o := Options{random: random}
	o.defaults()
	buf := device.AlignedBytes(ioBytes)
	end := size / device.SectorBytes * device.SectorBytes
	for off := int64(0); off < end; off += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), end-off)]
		if _, err := io.ReadFull(o.random, b); err != nil {
			return err
		}
		if _, err := dev.WriteAt(b, off); err != nil {
			return ioError(err)
		}
		if progress != nil {
			progress(uint64(off)+uint64(len(b)), uint64(size))
		}
	}
	if err := dev.Sync(); err != nil {
		return ioError(err)
	}
	return nil
}
