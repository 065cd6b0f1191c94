package layout

import (
	"encoding/binary"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Keys of TreeSnapshots. IDs of snapshots, from 1, ascend with their generations and are never
// reused. Object 0 has the snapshots. Object d has what the head dropped while d was the point
// (contents.release).
const (
	KeySnapState = 0x01 // Obj 0, Sub 0: SnapState
	KeySnapshot  = 0x02 // Obj 0, Sub id: Snapshot
	KeyAbandoned = 0x03 // Obj 0, Sub point: Abandoned

	KeyDeadLog   = 0x08 // Sub 0: DeadLog
	KeyDeadSum   = 0x10 // Sub bound: DeadSum
	KeyDeadItem  = 0x11 // Sub number: DeadRuns, not sorted yet
	KeyDeadPiece = 0x12 // Sub bound<<32 | number: DeadRuns of one bound
)

const (
	// MaxSnapshots bounds the snapshots of a volume.
	MaxSnapshots = 1 << 16
	// MaxSnapshotName is the longest name of a snapshot, in bytes.
	MaxSnapshotName = 128
	// DeadItemRuns is the most runs of a KeyDeadItem item.
	DeadItemRuns = 128
	// DeadPieceRuns is the most runs of a KeyDeadPiece item.
	DeadPieceRuns = 256
)

// SnapState is the value of the KeySnapState item.
type SnapState struct {
	NextID     uint32 // of the next snapshot or rollback
	Point      uint32 // of the head's current dead list
	DeadBlocks uint64 // in all dead lists
}

const snapStateBytes = 32

// Append encodes the item.
func (s *SnapState) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, s.NextID)
	b = binary.LittleEndian.AppendUint32(b, s.Point)
	b = binary.LittleEndian.AppendUint64(b, s.DeadBlocks)
	return append(b, make([]byte, snapStateBytes-16)...)
}

// DecodeSnapState decodes a whole item value.
func DecodeSnapState(b []byte) (SnapState, error) {
	if len(b) != snapStateBytes || !zeros(b[16:]) {
		return SnapState{}, corrupt("snapshot state: invalid length of %d bytes", len(b))
	}
	le := binary.LittleEndian
	s := SnapState{NextID: le.Uint32(b), Point: le.Uint32(b[4:]), DeadBlocks: le.Uint64(b[8:])}
	if s.NextID == 0 || s.Point >= s.NextID {
		return SnapState{}, corrupt("snapshot state: point %d is not below next ID %d", s.Point, s.NextID)
	}
	return s, nil
}

// Snapshot is the value of a KeySnapshot item.
type Snapshot struct {
	Generation uint64
	Created    vfs.Timespec
	Tree       Pointer // TreeFS at the end of Generation
	Inodes     uint64  // in it
	Blocks     uint64  // in use then, without dead lists
	Epoch      uint32  // oldest key epoch of the volume's keys
	Deleting   bool    // it cannot be opened; what only it held is being freed
	Promised   uint64  // Reservations.Promised and Ranges of the head at the end of Generation
	Ranges     uint64
	Name       string
}

const (
	snapshotFixed    = 8 + 12 + PointerBytes + 8 + 8 + 4 + 1 + 3
	snapshotReserved = 16 // before the name, if anything is reserved

	snapshotDeleting = 1 << 0
	snapshotReserves = 1 << 1
)

// Append encodes the item.
func (s *Snapshot) Append(b []byte) []byte {
	i := len(b)
	b = append(b, make([]byte, snapshotFixed)...)
	p := b[i:]
	le := binary.LittleEndian
	le.PutUint64(p, s.Generation)
	putTime(p[8:], s.Created)
	s.Tree.Put(p[20:])
	le.PutUint64(p[124:], s.Inodes)
	le.PutUint64(p[132:], s.Blocks)
	le.PutUint32(p[140:], s.Epoch)
	if s.Deleting {
		p[144] |= snapshotDeleting
	}
	if s.Promised > 0 {
		p[144] |= snapshotReserves
		b = le.AppendUint64(le.AppendUint64(b, s.Promised), s.Ranges)
	}
	return append(b, s.Name...)
}

// DecodeSnapshot decodes a whole item value.
func DecodeSnapshot(b []byte) (Snapshot, error) {
	var s Snapshot
	fixed := snapshotFixed
	if len(b) > snapshotFixed && b[144]&snapshotReserves != 0 {
		fixed += snapshotReserved
	}
	if len(b) <= fixed || len(b) > fixed+MaxSnapshotName {
		return s, corrupt("snapshot: invalid length of %d bytes", len(b))
	}
	le := binary.LittleEndian
	s = Snapshot{Generation: le.Uint64(b), Created: getTime(b[8:]), Inodes: le.Uint64(b[124:]), Blocks: le.Uint64(b[132:]),
		Epoch: le.Uint32(b[140:]), Deleting: b[144]&snapshotDeleting != 0, Name: string(b[fixed:])}
	if fixed > snapshotFixed {
		s.Promised, s.Ranges = le.Uint64(b[snapshotFixed:]), le.Uint64(b[snapshotFixed+8:])
		if err := (&Reservations{Promised: s.Promised, Ranges: s.Ranges}).check(); err != nil || s.Promised == 0 {
			return s, corrupt("snapshot: invalid counts: %d reserved blocks in %d ranges", s.Promised, s.Ranges)
		}
	}
	if b[144]&^(snapshotDeleting|snapshotReserves) != 0 || !zeros(b[145:snapshotFixed]) {
		return s, corrupt("snapshot: reserved bytes are not zero")
	}
	if !ValidSnapshotName(s.Name) || s.Created.Nsec >= 1e9 || s.Generation == 0 || s.Generation >= 1<<62 {
		return s, corrupt("snapshot: invalid name, time or generation")
	}
	var err error
	if s.Tree, err = GetPointer(b[20:], TreeFS); err != nil {
		return s, err
	}
	if s.Tree.IsZero() || s.Tree.Birth > s.Generation {
		return s, corrupt("snapshot of generation %d: its tree has generation %d", s.Generation, s.Tree.Birth)
	}
	return s, nil
}

// ValidSnapshotName reports whether a name is valid for a snapshot: 1 to 128 of A-Z a-z 0-9 . _ - :
// + @, the first a letter, a digit or _.
func ValidSnapshotName(name string) bool {
	if name == "" || len(name) > MaxSnapshotName {
		return false
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case i > 0 && (c == '.' || c == '-' || c == ':' || c == '+' || c == '@'):
		default:
			return false
		}
	}
	return true
}

// Abandoned is the value of a KeyAbandoned item: the head that a rollback abandoned, as far as it
// is not freed yet.
type Abandoned struct {
	Snapshot   uint32  // the rollback's target
	Generation uint64  // of that snapshot: older blocks belong to it
	Tree       Pointer // the abandoned head
	Lists      bool    // its dead lists are done
	Next       Key     // items of the tree below are done
}

const abandonedBytes = 4 + 1 + 3 + 8 + PointerBytes + KeyBytes + 7

// Append encodes the item.
func (a *Abandoned) Append(b []byte) []byte {
	i := len(b)
	b = append(b, make([]byte, abandonedBytes)...)
	p := b[i:]
	binary.LittleEndian.PutUint32(p, a.Snapshot)
	if a.Lists {
		p[4] = 1
	}
	binary.LittleEndian.PutUint64(p[8:], a.Generation)
	a.Tree.Put(p[16:])
	a.Next.Put(p[16+PointerBytes:])
	return b
}

// DecodeAbandoned decodes a whole item value.
func DecodeAbandoned(b []byte) (a Abandoned, err error) {
	const end = 16 + PointerBytes + KeyBytes
	if len(b) != abandonedBytes || b[4] > 1 || !zeros(b[5:8]) || !zeros(b[end:]) {
		return a, corrupt("abandoned head: invalid length of %d bytes", len(b))
	}
	a = Abandoned{Snapshot: binary.LittleEndian.Uint32(b), Lists: b[4] == 1, Generation: binary.LittleEndian.Uint64(b[8:]), Next: GetKey(b[16+PointerBytes:])}
	if a.Tree, err = GetPointer(b[16:], TreeFS); err != nil {
		return a, err
	}
	if a.Tree.IsZero() || a.Snapshot == 0 || a.Generation == 0 {
		return a, corrupt("abandoned head: tree or snapshot is missing")
	}
	return a, nil
}

// DeadLog is the value of a KeyDeadLog item: the items KeyDeadItem [First, Next) exist.
type DeadLog struct{ First, Next uint32 }

// Append encodes the item.
func (l *DeadLog) Append(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, l.First), l.Next)
}

// DecodeDeadLog decodes a whole item value.
func DecodeDeadLog(b []byte) (DeadLog, error) {
	if len(b) != 8 {
		return DeadLog{}, corrupt("dead list: invalid length of %d bytes", len(b))
	}
	l := DeadLog{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])}
	if l.First >= l.Next {
		return DeadLog{}, corrupt("dead list: invalid items %d to %d", l.First, l.Next)
	}
	return l, nil
}

// DeadSum is the value of a KeyDeadSum item.
type DeadSum struct {
	Blocks      uint64 // with this point and bound, in items and pieces
	First, Next uint32 // pieces [First, Next) exist
}

// Append encodes the item.
func (s *DeadSum) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, s.Blocks)
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, s.First), s.Next)
}

// DecodeDeadSum decodes a whole item value.
func DecodeDeadSum(b []byte) (DeadSum, error) {
	if len(b) != 16 {
		return DeadSum{}, corrupt("sum of a dead list: invalid length of %d bytes", len(b))
	}
	le := binary.LittleEndian
	s := DeadSum{le.Uint64(b), le.Uint32(b[8:]), le.Uint32(b[12:])}
	if s.Blocks == 0 || s.First > s.Next {
		return DeadSum{}, corrupt("sum of a dead list: invalid counts: %d blocks, pieces %d to %d", s.Blocks, s.First, s.Next)
	}
	return s, nil
}

// DeadRun is an entry of a dead list: a run that snapshots hold and the head does not. Bound is the
// newest snapshot that is older than the data.
type DeadRun struct {
	Run
	Bound uint32
}

const (
	deadItemEntry  = 16
	deadPieceEntry = 12
)

// AppendDeadItem encodes a KeyDeadItem item.
func AppendDeadItem(b []byte, runs []DeadRun) []byte {
	for _, r := range runs {
		b = appendRun(b, r.Run)
		b = binary.LittleEndian.AppendUint32(b, r.Bound)
	}
	return b
}

// DecodeDeadItem decodes a whole item value.
func DecodeDeadItem(b []byte) ([]DeadRun, error) {
	if len(b) == 0 || len(b)%deadItemEntry != 0 || len(b)/deadItemEntry > DeadItemRuns {
		return nil, corrupt("dead list item: invalid length of %d bytes", len(b))
	}
	runs := make([]DeadRun, len(b)/deadItemEntry)
	for i := range runs {
		p := b[i*deadItemEntry:]
		r, err := decodeRun(p)
		if err != nil {
			return nil, err
		}
		runs[i] = DeadRun{r, binary.LittleEndian.Uint32(p[12:])}
	}
	return runs, nil
}

// AppendDeadPiece encodes a KeyDeadPiece item, whose key has the bound.
func AppendDeadPiece(b []byte, runs []Run) []byte {
	for _, r := range runs {
		b = appendRun(b, r)
	}
	return b
}

// DecodeDeadPiece decodes a whole item value.
func DecodeDeadPiece(b []byte) ([]Run, error) {
	if len(b) == 0 || len(b)%deadPieceEntry != 0 || len(b)/deadPieceEntry > DeadPieceRuns {
		return nil, corrupt("dead list piece: invalid length of %d bytes", len(b))
	}
	runs := make([]Run, len(b)/deadPieceEntry)
	for i := range runs {
		var err error
		if runs[i], err = decodeRun(b[i*deadPieceEntry:]); err != nil {
			return nil, err
		}
	}
	return runs, nil
}

func appendRun(b []byte, r Run) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint64(b, r.Start), r.Count)
}

func decodeRun(b []byte) (Run, error) {
	r := Run{Start: binary.LittleEndian.Uint64(b), Count: binary.LittleEndian.Uint32(b[8:])}
	if r.Count == 0 || r.Start >= 1<<50 {
		return Run{}, corrupt("invalid run %d+%d", r.Start, r.Count)
	}
	return r, nil
}
