package layout

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// Fixed places on the device; see docs/format.md, "Places".
const (
	BlockBytes   = 4096
	RootSlots    = 16
	rootEvenOff  = HeaderOffsetA + HeaderBytes
	rootOddOff   = HeaderOffsetB + HeaderBytes
	LogOff       = 2 << 20 // the log follows the second array
	MinDevice    = 64 << 20
	NodeBytes    = 16 << 10
	NodeBlocks   = NodeBytes / BlockBytes // a node slot: nodes start at multiples of it
	RegionBytes  = 128 << 20
	RegionBlocks = RegionBytes / BlockBytes // blocks in a region, bits in a bitmap
)

// ErrCorrupt means that a stored structure violates the format.
var ErrCorrupt = errors.New("stored structure is damaged")

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// RootSlotOff is the byte offset of a root slot. Even and odd slots are in two arrays, far apart.
func RootSlotOff(slot int) int64 {
	off := int64(rootEvenOff)
	if slot%2 == 1 {
		off = rootOddOff
	}
	return off + int64(slot/2)*BlockBytes
}

// RootCopies is the number of copies of a root.
const RootCopies = 2

// RootArrayBytes is the length of an array: slots, then the second copies of the
// other array's slots.
const RootArrayBytes = RootSlots * BlockBytes

// RootCopyOff is the byte offset of copy 0 or 1 of a root slot. The two are in different arrays,
// far apart.
func RootCopyOff(slot, n int) int64 {
	if n == 0 {
		return RootSlotOff(slot)
	}
	return RootSlotOff(slot^1) + RootArrayBytes/2
}

// LogBytes is the size of the log that mkfs reserves on a device.
func LogBytes(deviceBytes int64) int64 {
	n := deviceBytes / 64
	n = max(4<<20, min(64<<20, n))
	return n &^ (1<<20 - 1)
}

// Kinds of sealed extents (crypto.Extent.Kind).
const (
	KindNode     = 1                   // B+tree node
	KindFreeList = 2                   // blocks freed by one generation
	KindFileData = crypto.KindFileData // 6
)

// Trees (crypto.Extent.Object of a node, index in Root.Trees).
const (
	TreeFS        = 1 // the writable head
	TreeSpace     = 2
	TreeSnapshots = 3 // snapshots and dead lists
	TreeShares    = 4 // extra references of reflinked blocks
	TreeAnchors   = 5 // confirmed anchors
	Trees         = 8
)

// KeyBytes is the stored size of a Key.
const KeyBytes = 17

// Key orders every tree: by object, then type, then sub, all big endian.
type Key struct {
	Obj  uint64
	Type uint8
	Sub  uint64
}

// Types of keys of TreeFS. Obj is the inode.
const (
	KeyOrphan   = 0x01 // Obj 0, Sub inode: it has no name, or is being truncated
	KeyReserver = 0x02 // Obj 0, Sub inode: has reserved ranges
	KeyPosition = 0x03 // Obj 0, Sub piece: how far the restore of the volume has come
	KeyInode    = 0x10 // Sub 0
	KeyInline   = 0x20 // Sub 0: content of a small file, target of a symlink
	KeyReserved = 0x28 // Sub: first block of a reserved range of the file
	KeyXattr    = 0x30 // Sub: hash of the name ‖ collision ‖ piece
	KeyName     = 0x40 // Sub: hash of the name ‖ collision
	KeyExtent   = 0x50 // Sub: block of the file
)

// Types of keys of TreeSpace. Obj is 0.
const (
	KeyRegion = 0x01 // Sub: region
	KeyGroup  = 0x02 // Sub: group of 512 regions
	KeyTop    = 0x03 // Sub: 256 groups
)

// Put encodes k to b[:KeyBytes].
func (k Key) Put(b []byte) {
	_ = b[KeyBytes-1]
	binary.BigEndian.PutUint64(b, k.Obj)
	b[8] = k.Type
	binary.BigEndian.PutUint64(b[9:], k.Sub)
}

// GetKey decodes b[:KeyBytes].
func GetKey(b []byte) Key {
	_ = b[KeyBytes-1]
	return Key{Obj: binary.BigEndian.Uint64(b), Type: b[8], Sub: binary.BigEndian.Uint64(b[9:])}
}

// Next is the key that follows k. ok is false if k is the last one.
func (k Key) Next() (next Key, ok bool) {
	if k.Sub++; k.Sub != 0 {
		return k, true
	}
	if k.Type++; k.Type != 0 {
		return k, true
	}
	k.Obj++
	return k, k.Obj != 0
}

// Compare is -1, 0 or 1.
func (k Key) Compare(o Key) int {
	switch {
	case k.Obj != o.Obj:
		if k.Obj < o.Obj {
			return -1
		}
		return 1
	case k.Type != o.Type:
		if k.Type < o.Type {
			return -1
		}
		return 1
	case k.Sub != o.Sub:
		if k.Sub < o.Sub {
			return -1
		}
		return 1
	}
	return 0
}

// Less reports whether k sorts before o.
func (k Key) Less(o Key) bool { return k.Compare(o) < 0 }

func (k Key) String() string { return fmt.Sprintf("%d/%#x/%d", k.Obj, k.Type, k.Sub) }

// Record is an extent record: the sealing fields, the address, and the run of segments that this
// reference uses.
type Record struct {
	crypto.Extent
	Addr  uint64 // byte address of segment First
	First int    // first segment of the run
	Tags  []crypto.Tag
}

const (
	recordFixed = 80
	// MaxRecordBytes is the largest encoded record.
	MaxRecordBytes = recordFixed + 256*16
	// NodeRecordBytes is the size of a record of one segment.
	NodeRecordBytes = recordFixed + 16
)

// Count is the number of segments of the run.
func (r *Record) Count() int { return len(r.Tags) }

// EncodedBytes is the size of r as stored.
func (r *Record) EncodedBytes() int { return recordFixed + 16*len(r.Tags) }

// Append encodes r; see docs/format.md, "Extent records".
func (r *Record) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, r.Addr)
	b = binary.LittleEndian.AppendUint64(b, r.Birth)
	b = append(b, r.Nonce[:]...)
	b = binary.LittleEndian.AppendUint32(b, r.Epoch)
	b = binary.LittleEndian.AppendUint32(b, r.PLen)
	b = binary.LittleEndian.AppendUint32(b, r.LLen)
	b = append(b, r.Kind, r.Level, r.Comp, r.Shift)
	b = binary.LittleEndian.AppendUint64(b, r.Object)
	b = binary.LittleEndian.AppendUint64(b, r.Index)
	b = append(b, uint8(r.First), uint8(len(r.Tags)-1), 0, 0, 0, 0, 0, 0)
	for i := range r.Tags {
		b = append(b, r.Tags[i][:]...)
	}
	return b
}

// DecodeRecord decodes a record from the start of b and returns the rest of b.
func DecodeRecord(b []byte) (Record, []byte, error) {
	var r Record
	if len(b) < NodeRecordBytes {
		return r, nil, corrupt("extent record: invalid length of %d bytes", len(b))
	}
	r.Addr = binary.LittleEndian.Uint64(b)
	r.Birth = binary.LittleEndian.Uint64(b[8:])
	copy(r.Nonce[:], b[16:40])
	r.Epoch = binary.LittleEndian.Uint32(b[40:])
	r.PLen = binary.LittleEndian.Uint32(b[44:])
	r.LLen = binary.LittleEndian.Uint32(b[48:])
	r.Kind, r.Level, r.Comp, r.Shift = b[52], b[53], b[54], b[55]
	r.Object = binary.LittleEndian.Uint64(b[56:])
	r.Index = binary.LittleEndian.Uint64(b[64:])
	r.First = int(b[72])
	n := int(b[73]) + 1
	if [6]byte(b[74:80]) != [6]byte{} {
		return r, nil, corrupt("extent record: reserved bytes are not zero")
	}
	if err := r.Extent.Validate(); err != nil {
		return r, nil, corrupt("extent record: %v", err)
	}
	if r.First+n > r.Segments() {
		return r, nil, corrupt("extent record: invalid segments %d+%d of %d", r.First, n, r.Segments())
	}
	if r.Addr%BlockBytes != 0 || r.Addr == 0 || r.Addr >= 1<<62 {
		return r, nil, corrupt("extent record: invalid address %d", r.Addr)
	}
	if len(b) < recordFixed+16*n {
		return r, nil, corrupt("extent record: %d tags do not fit %d bytes", n, len(b))
	}
	r.Tags = make([]crypto.Tag, n)
	for i := range r.Tags {
		copy(r.Tags[i][:], b[recordFixed+16*i:])
	}
	return r, b[recordFixed+16*n:], nil
}

// RunBytes is the size of the run on the device.
func (r *Record) RunBytes() int {
	off, _ := r.SegmentRange(r.First)
	_, end := r.SegmentRange(r.First + len(r.Tags) - 1)
	return end - off
}

// Slice returns the record of segments [from, from+count) of r's run; it
// shares r's tags.
func (r *Record) Slice(from, count int) Record {
	s := *r
	a, _ := r.SegmentRange(r.First)
	o, _ := r.SegmentRange(r.First + from)
	s.Addr += uint64(o - a)
	s.First += from
	s.Tags = r.Tags[from : from+count]
	return s
}

// FileExtentBytes is the size that a file extent's item adds to its record: refbirth and
// extentOwed.
const FileExtentBytes = 8

// extentOwed is the bit of that word for FileExtent.Owed.
const extentOwed = 1 << 63

// FileExtent is the value of a KeyExtent item.
type FileExtent struct {
	Record
	RefBirth uint64
	Owed     bool // something else refers to it, or did; see Reservations
}

// Append encodes the item.
func (e *FileExtent) Append(b []byte) []byte {
	b = e.Record.Append(b)
	ref := e.RefBirth
	if e.Owed {
		ref |= extentOwed
	}
	return binary.LittleEndian.AppendUint64(b, ref)
}

// DecodeFileExtent decodes a whole item value.
func DecodeFileExtent(b []byte) (FileExtent, error) {
	r, rest, err := DecodeRecord(b)
	if err != nil {
		return FileExtent{}, err
	}
	if len(rest) != FileExtentBytes {
		return FileExtent{}, corrupt("file extent: %d trailing bytes", len(rest))
	}
	if r.Kind != KindFileData {
		return FileExtent{}, corrupt("file extent: invalid kind %d", r.Kind)
	}
	if r.Shift != 12 || r.Comp != 0 {
		// Streams and compression need feature bits that this version refuses.
		return FileExtent{}, corrupt("file extent: unexpected segment shift %d or compression %d", r.Shift, r.Comp)
	}
	ref := binary.LittleEndian.Uint64(rest)
	e := FileExtent{Record: r, RefBirth: ref &^ extentOwed, Owed: ref&extentOwed != 0}
	if e.RefBirth < e.Birth {
		return FileExtent{}, corrupt("file extent: refbirth is below birth")
	}
	return e, nil
}

// ExtentBlocks is the number of blocks that a stored file extent covers, without decoding it; 0 if
// DecodeFileExtent must judge it.
func ExtentBlocks(b []byte) uint64 {
	if len(b) < NodeRecordBytes || b[55] != 12 {
		return 0
	}
	return uint64(b[73]) + 1
}

// Blocks is the number of file blocks that the run covers.
func (e *FileExtent) Blocks() uint64 { return uint64(e.RunBytes()) / BlockBytes }

// PointerBytes is the stored size of a Pointer.
const PointerBytes = NodeRecordBytes + 8

// Pointer refers to a node. Addr2 is a second copy of the same ciphertext, 0 if there is none (only
// the top two levels have one).
type Pointer struct {
	Record
	Addr2 uint64
}

// IsZero reports whether the tree is empty.
func (p *Pointer) IsZero() bool { return p.Addr == 0 }

// Put encodes p to b[:PointerBytes].
func (p *Pointer) Put(b []byte) {
	_ = b[PointerBytes-1]
	if p.IsZero() {
		clear(b[:PointerBytes])
		return
	}
	p.Record.Append(b[:0])
	binary.LittleEndian.PutUint64(b[NodeRecordBytes:], p.Addr2)
}

// GetPointer decodes b[:PointerBytes] of a node of tree, at level.
// It returns the zero Pointer for zeros.
func GetPointer(b []byte, tree uint64) (Pointer, error) {
	if len(b) < PointerBytes {
		return Pointer{}, corrupt("pointer: invalid length of %d bytes", len(b))
	}
	if binary.LittleEndian.Uint64(b) == 0 {
		for _, c := range b[:PointerBytes] {
			if c != 0 {
				return Pointer{}, corrupt("pointer: address is missing")
			}
		}
		return Pointer{}, nil
	}
	r, _, err := DecodeRecord(b[:NodeRecordBytes])
	if err != nil {
		return Pointer{}, err
	}
	if r.Kind != KindNode || r.Object != tree || r.Index != 0 || r.PLen != NodeBytes || len(r.Tags) != 1 {
		return Pointer{}, corrupt("pointer: unexpected kind %d or object %d", r.Kind, r.Object)
	}
	p := Pointer{Record: r, Addr2: binary.LittleEndian.Uint64(b[NodeRecordBytes:])}
	if p.Addr2%BlockBytes != 0 {
		return Pointer{}, corrupt("pointer: invalid second address %d", p.Addr2)
	}
	return p, nil
}
