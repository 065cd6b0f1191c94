package layout

import "encoding/binary"

// Reservations are a root's fields of reserved ranges (fallocate). A range promises space for
// whatever is written to it. A promised block is owed if a write to it takes space permanently: it
// has no extent, or its extent has a refbirth of at most Mark (a snapshot may hold it), or the owed
// bit (FileExtent.Owed: something shares it).
type Reservations struct {
	Promised uint64 // blocks of all ranges
	Owed     uint64 // of these, owed ones
	Ranges   uint64 // KeyReserved items
	Mark     uint64 // generation of the newest snapshot taken while something was promised
}

// MaxReserved bounds the blocks of all ranges: those of the largest device.
const MaxReserved = 1 << 50

const reservationsBytes = 32

func (r *Reservations) put(b []byte) {
	le := binary.LittleEndian
	le.PutUint64(b, r.Promised)
	le.PutUint64(b[8:], r.Owed)
	le.PutUint64(b[16:], r.Ranges)
	le.PutUint64(b[24:], r.Mark)
}

func getReservations(b []byte) Reservations {
	le := binary.LittleEndian
	return Reservations{le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:])}
}

func (r *Reservations) check() error {
	if r.Promised > MaxReserved || r.Owed > r.Promised || r.Ranges > r.Promised || r.Promised > 0 && r.Ranges == 0 || r.Mark >= 1<<62 {
		return corrupt("reserved ranges: invalid counts: %d of %d blocks owed, %d ranges, mark %d", r.Owed, r.Promised, r.Ranges, r.Mark)
	}
	return nil
}

const reservedBytes = 8

// AppendReserved encodes the value of a KeyReserved item: the number of blocks in the range.
func AppendReserved(b []byte, blocks uint64) []byte {
	return binary.LittleEndian.AppendUint64(b, blocks)
}

// DecodeReserved decodes the value of a KeyReserved item. Its key has the first block of the range.
func DecodeReserved(first uint64, b []byte) (blocks uint64, err error) {
	if len(b) != reservedBytes {
		return 0, corrupt("reserved range: invalid length of %d bytes", len(b))
	}
	n := binary.LittleEndian.Uint64(b)
	if n == 0 || n > MaxReserved || first > MaxFileBytes/BlockBytes || n > MaxFileBytes/BlockBytes+1-first {
		return 0, corrupt("reserved range: invalid range of %d blocks from block %d", n, first)
	}
	return n, nil
}
