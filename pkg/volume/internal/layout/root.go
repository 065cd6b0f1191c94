package layout

import (
	"bytes"
	"encoding/binary"

	"github.com/sealvol/sealvol/pkg/crypto"
)

const (
	rootMagic   = "SVR2"
	rootVersion = 1
	// MaxAnchorsOffered bounds Root.Offered (threat model, Root and intent log).
	MaxAnchorsOffered = 32
)

// OfferedAnchor is an anchor that was offered and is not confirmed yet.
type OfferedAnchor struct {
	Generation uint64
	R          [32]byte
}

// Rotation is the progress of a rotation of the data key. The zero value means that none is
// running.
type Rotation struct {
	Target uint32 // the epoch that everything gets
	// Again is set when this pass found something of an older epoch, or something of an older epoch
	// entered the head: another pass must follow.
	Again bool
	// Tree and Next are where the pass continues: everything before has epoch Target, or Again is
	// set.
	Tree uint8
	Next Key
	Done uint64 // blocks that this pass has visited
}

// Root is the plaintext of a root slot.
type Root struct {
	Generation uint64
	Instance   crypto.UUID // of this device; new for each clone
	MountEpoch uint64      // counts read-write mounts
	MountID    [16]byte    // M, random for each mount
	LogSeq     uint64      // q: the first frame this root does not cover
	OpSeq      uint64      // the first operation this root does not cover
	HeaderSeq  uint64      // lowest acceptable header sequence
	PrevR      [32]byte    // hash of the predecessor's plaintext
	Clean      bool        // written by a clean unmount: nothing was logged after it

	DeviceBlocks uint64
	LogBlocks    uint64
	NextIno      uint64
	HashSeed     [16]byte // SipHash key of names
	FreeBlocks   uint64   // clear bits of all bitmaps; blocks that wait for I3 are not counted
	Inodes       uint64
	AllocHint    uint64 // region in which the last commit ended

	NewestSnapshot uint64 // generation of the newest local snapshot, 0: none

	Rotation Rotation // of the data key

	Trees     [Trees]Pointer
	FreeLists [2]Pointer2 // blocks freed by this generation, and by the one before
	Offered   []OfferedAnchor

	Reserved Reservations
}

// Pointer2 refers to the first piece of a free list. The pieces are chained.
type Pointer2 struct {
	Record
	Blocks uint64 // in the whole list
}

const freePointerBytes = NodeRecordBytes + 8

// IsZero reports whether the list is empty.
func (p *Pointer2) IsZero() bool { return p.Addr == 0 }

func (p *Pointer2) put(b []byte) {
	clear(b[:freePointerBytes])
	if p.IsZero() {
		return
	}
	p.Record.Append(b[:0])
	binary.LittleEndian.PutUint64(b[NodeRecordBytes:], p.Blocks)
}

func getPointer2(b []byte) (Pointer2, error) {
	if binary.LittleEndian.Uint64(b) == 0 {
		if !zeros(b[:freePointerBytes]) {
			return Pointer2{}, corrupt("free list: address is missing")
		}
		return Pointer2{}, nil
	}
	r, _, err := DecodeRecord(b[:NodeRecordBytes])
	if err != nil {
		return Pointer2{}, err
	}
	if r.Kind != KindFreeList || len(r.Tags) != 1 {
		return Pointer2{}, corrupt("free list: invalid kind %d", r.Kind)
	}
	return Pointer2{Record: r, Blocks: binary.LittleEndian.Uint64(b[NodeRecordBytes:])}, nil
}

const (
	rootRotation = 216
	rootTreesOff = 256
	rootListsOff = rootTreesOff + Trees*PointerBytes
	rootOffered  = rootListsOff + 2*freePointerBytes
	rootReserved = rootOffered + 8 + MaxAnchorsOffered*40
	rootUsed     = rootReserved + reservationsBytes
)

// Encode fills the plaintext of a root slot (crypto.RootBytes).
func (r *Root) Encode() []byte {
	b := make([]byte, crypto.RootBytes)
	le := binary.LittleEndian
	copy(b, rootMagic)
	le.PutUint32(b[4:], rootVersion)
	le.PutUint64(b[8:], r.Generation)
	copy(b[16:], r.Instance[:])
	le.PutUint64(b[32:], r.MountEpoch)
	copy(b[40:], r.MountID[:])
	le.PutUint64(b[56:], r.LogSeq)
	le.PutUint64(b[64:], r.OpSeq)
	le.PutUint64(b[72:], r.HeaderSeq)
	copy(b[80:], r.PrevR[:])
	if r.Clean {
		b[112] = 1
	}
	le.PutUint64(b[120:], r.DeviceBlocks)
	le.PutUint64(b[128:], r.LogBlocks)
	le.PutUint64(b[136:], r.NextIno)
	copy(b[144:], r.HashSeed[:])
	le.PutUint64(b[160:], r.FreeBlocks)
	le.PutUint64(b[168:], r.Inodes)
	le.PutUint64(b[176:], r.AllocHint)
	le.PutUint64(b[184:], r.NewestSnapshot)
	r.Rotation.put(b[rootRotation:])
	for i := range r.Trees {
		r.Trees[i].Put(b[rootTreesOff+i*PointerBytes:])
	}
	for i := range r.FreeLists {
		r.FreeLists[i].put(b[rootListsOff+i*freePointerBytes:])
	}
	le.PutUint32(b[rootOffered:], uint32(len(r.Offered)))
	for i, a := range r.Offered {
		p := b[rootOffered+8+40*i:]
		le.PutUint64(p, a.Generation)
		copy(p[8:40], a.R[:])
	}
	r.Reserved.put(b[rootReserved:])
	return b
}

func (r *Rotation) put(b []byte) {
	le := binary.LittleEndian
	le.PutUint32(b, r.Target)
	if r.Again {
		b[4] = 1
	}
	b[5] = r.Tree
	le.PutUint64(b[8:], r.Done)
	r.Next.Put(b[16:])
}

// getRotation decodes fields that DecodeRoot validates by encoding them again.
func getRotation(b []byte) Rotation {
	le := binary.LittleEndian
	return Rotation{Target: le.Uint32(b), Again: b[4] == 1, Tree: b[5], Done: le.Uint64(b[8:]), Next: GetKey(b[16:])}
}

// DecodeRoot decodes the plaintext of a root slot.
func DecodeRoot(b []byte) (*Root, error) {
	if len(b) != crypto.RootBytes {
		return nil, corrupt("root: invalid length of %d bytes", len(b))
	}
	le := binary.LittleEndian
	if string(b[:4]) != rootMagic {
		return nil, corrupt("root: magic")
	}
	if v := le.Uint32(b[4:]); v != rootVersion {
		return nil, corrupt("root: unknown version %d", v)
	}
	r := &Root{
		Generation: le.Uint64(b[8:]), MountEpoch: le.Uint64(b[32:]), LogSeq: le.Uint64(b[56:]), OpSeq: le.Uint64(b[64:]),
		HeaderSeq: le.Uint64(b[72:]), Clean: b[112] == 1,
		DeviceBlocks: le.Uint64(b[120:]), LogBlocks: le.Uint64(b[128:]), NextIno: le.Uint64(b[136:]),
		FreeBlocks: le.Uint64(b[160:]), Inodes: le.Uint64(b[168:]), AllocHint: le.Uint64(b[176:]),
		NewestSnapshot: le.Uint64(b[184:]),
	}
	r.Rotation = getRotation(b[rootRotation:])
	copy(r.Instance[:], b[16:])
	copy(r.MountID[:], b[40:])
	copy(r.PrevR[:], b[80:])
	copy(r.HashSeed[:], b[144:])
	var err error
	for i := range r.Trees {
		if r.Trees[i], err = GetPointer(b[rootTreesOff+i*PointerBytes:], uint64(i)); err != nil {
			return nil, err
		}
	}
	for i := range r.FreeLists {
		if r.FreeLists[i], err = getPointer2(b[rootListsOff+i*freePointerBytes:]); err != nil {
			return nil, err
		}
	}
	n := le.Uint32(b[rootOffered:])
	if n > MaxAnchorsOffered {
		return nil, corrupt("root: invalid number of anchors %d", n)
	}
	for i := range int(n) {
		p := b[rootOffered+8+40*i:]
		r.Offered = append(r.Offered, OfferedAnchor{Generation: le.Uint64(p), R: [32]byte(p[8:40])})
	}
	r.Reserved = getReservations(b[rootReserved:])
	if r.DeviceBlocks < MinDevice/BlockBytes || r.DeviceBlocks > 1<<50 ||
		r.LogBlocks < 256 || r.LogBlocks > 1<<16 || r.LogBlocks >= r.DeviceBlocks/2 || r.Generation == 0 ||
		max(r.Generation, r.LogSeq, r.OpSeq, r.NextIno, r.MountEpoch, r.Inodes) >= MaxNumber {
		return nil, corrupt("root: invalid geometry: %d blocks, log of %d", r.DeviceBlocks, r.LogBlocks)
	}
	if x := r.Rotation; x.Target == 0 && x != (Rotation{}) || x.Tree >= Trees {
		return nil, corrupt("root: invalid rotation to epoch %d, at tree %d", x.Target, x.Tree)
	}
	if err := r.Reserved.check(); err != nil {
		return nil, err
	}
	if !bytes.Equal(r.Encode(), b) {
		return nil, corrupt("root: reserved bytes are not zero")
	}
	return r, nil
}

// DataStart is the first block after header, roots and log.
func (r *Root) DataStart() uint64 { return LogOff/BlockBytes + r.LogBlocks }

// Run is a run of blocks.
type Run struct {
	Start uint64 // block
	Count uint32
}

// FreeListPieceMax is the most runs in one piece of a free list.
const FreeListPieceMax = (64<<10 - freePointerBytes - 8) / 12

// EncodeFreeList encodes one piece. next refers to the following one.
func EncodeFreeList(runs []Run, next *Pointer2) []byte {
	b := make([]byte, freePointerBytes+8+12*len(runs))
	next.put(b)
	le := binary.LittleEndian
	le.PutUint32(b[freePointerBytes:], uint32(len(runs)))
	for i, r := range runs {
		le.PutUint64(b[freePointerBytes+8+12*i:], r.Start)
		le.PutUint32(b[freePointerBytes+16+12*i:], r.Count)
	}
	return b
}

// DecodeFreeList decodes one piece.
func DecodeFreeList(b []byte) ([]Run, Pointer2, error) {
	if len(b) < freePointerBytes+8 {
		return nil, Pointer2{}, corrupt("free list: invalid length of %d bytes", len(b))
	}
	next, err := getPointer2(b)
	if err != nil {
		return nil, Pointer2{}, err
	}
	le := binary.LittleEndian
	n := int(le.Uint32(b[freePointerBytes:]))
	if n > FreeListPieceMax || len(b) != freePointerBytes+8+12*n || le.Uint32(b[freePointerBytes+4:]) != 0 {
		return nil, Pointer2{}, corrupt("free list: %d runs do not fit %d bytes", n, len(b))
	}
	runs := make([]Run, n)
	for i := range runs {
		runs[i] = Run{Start: le.Uint64(b[freePointerBytes+8+12*i:]), Count: le.Uint32(b[freePointerBytes+16+12*i:])}
		if runs[i].Count == 0 || runs[i].Start >= 1<<50 {
			return nil, Pointer2{}, corrupt("free list: invalid run %d+%d", runs[i].Start, runs[i].Count)
		}
	}
	return runs, next, nil
}

// Values of TreeSpace.
const (
	regionFixed     = 16
	RegionValue     = regionFixed + RegionBlocks/8
	GroupRegions    = 512
	groupEntry      = 8
	GroupValue      = GroupRegions * groupEntry
	TopGroups       = 256
	topEntry        = 12
	TopValue        = TopGroups * topEntry
	RegionNodeSlots = RegionBlocks / NodeBlocks
	regionVersion   = 1
)

// Summary describes the free space of a region, or of a group of regions.
type Summary struct {
	Free      uint32 // blocks
	Largest   uint32 // longest run of free blocks in one region
	NodeSlots uint32 // free node slots
}

// PutRegion encodes a region's value. shared is the number of its blocks with items in TreeShares.
func PutRegion(s Summary, shared uint32, bitmap *[RegionBlocks / 64]uint64) []byte {
	b := make([]byte, RegionValue)
	le := binary.LittleEndian
	le.PutUint32(b, s.Free)
	le.PutUint32(b[4:], s.Largest)
	le.PutUint32(b[8:], s.NodeSlots)
	le.PutUint32(b[12:], shared)
	for i, w := range bitmap {
		le.PutUint64(b[regionFixed+8*i:], w)
	}
	return b
}

// GetRegion decodes a region's value.
func GetRegion(b []byte) (s Summary, shared uint32, bitmap *[RegionBlocks / 64]uint64, err error) {
	if len(b) != RegionValue {
		return s, 0, nil, corrupt("region: invalid length of %d bytes", len(b))
	}
	le := binary.LittleEndian
	s = Summary{Free: le.Uint32(b), Largest: le.Uint32(b[4:]), NodeSlots: le.Uint32(b[8:])}
	if shared = le.Uint32(b[12:]); shared > RegionBlocks {
		return s, 0, nil, corrupt("region: invalid number of shared blocks %d", shared)
	}
	bitmap = new([RegionBlocks / 64]uint64)
	for i := range bitmap {
		bitmap[i] = le.Uint64(b[regionFixed+8*i:])
	}
	return s, shared, bitmap, nil
}

// Put encodes entry i of a group's value: 16 bits each of free,
// largest, nodeSlots (a region has 32,768 blocks).
func (s Summary) Put(b []byte, i int) {
	le := binary.LittleEndian
	le.PutUint16(b[i*groupEntry:], uint16(s.Free))
	le.PutUint16(b[i*groupEntry+2:], uint16(s.Largest))
	le.PutUint16(b[i*groupEntry+4:], uint16(s.NodeSlots))
}

// GetSummary decodes entry i of a group's value.
func GetSummary(b []byte, i int) Summary {
	le := binary.LittleEndian
	return Summary{Free: uint32(le.Uint16(b[i*groupEntry:])), Largest: uint32(le.Uint16(b[i*groupEntry+2:])),
		NodeSlots: uint32(le.Uint16(b[i*groupEntry+4:]))}
}

// PutTop encodes entry i of the top value: 32 bits each of the same counts of a group.
func (s Summary) PutTop(b []byte, i int) {
	le := binary.LittleEndian
	le.PutUint32(b[i*topEntry:], s.Free)
	le.PutUint32(b[i*topEntry+4:], s.Largest)
	le.PutUint32(b[i*topEntry+8:], s.NodeSlots)
}

// GetTop decodes entry i of the top value.
func GetTop(b []byte, i int) Summary {
	le := binary.LittleEndian
	return Summary{Free: le.Uint32(b[i*topEntry:]), Largest: le.Uint32(b[i*topEntry+4:]), NodeSlots: le.Uint32(b[i*topEntry+8:])}
}

// Add combines the summaries of two regions or groups.
func (s Summary) Add(o Summary) Summary {
	return Summary{Free: s.Free + o.Free, Largest: max(s.Largest, o.Largest), NodeSlots: s.NodeSlots + o.NodeSlots}
}
