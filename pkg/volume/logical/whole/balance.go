package whole

import (
	"crypto/rand"
	"encoding/binary"
	"errors"

	"github.com/dchest/siphash"
)

// balance compares two multisets of (inode, value): add adds to one of them, or, with a negative
// count, to the other. Both are equal if all sums are zero, with near certainty: the weights are
// hashes under a key that is newer than the facts.
type balance struct {
	key [2]uint64
	// The inodes from low on are divided into ranges of 1 << shift inodes, each with its own sum.
	low   uint64
	shift int
	sums  [balanceSums][2]uint64
}

const (
	balanceBits = 10
	balanceSums = 1 << balanceBits
)

// newBalance returns a balance of all inodes.
func newBalance() *balance {
	var b [16]byte
	rand.Read(b[:])
	return &balance{key: [2]uint64{binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:])}, shift: 64 - balanceBits}
}

// add adds n times (ino, value).
func (b *balance) add(ino, value uint64, n int64) {
	i := (ino - b.low) >> b.shift
	if ino < b.low || i >= balanceSums {
		return
	}
	var x [16]byte
	binary.LittleEndian.PutUint64(x[:], ino)
	binary.LittleEndian.PutUint64(x[8:], value)
	h0, h1 := siphash.Hash128(b.key[0], b.key[1], x[:])
	b.sums[i][0] += uint64(n) * h0
	b.sums[i][1] += uint64(n) * h1
}

// even reports whether all sums are zero.
func (b *balance) even() bool { return b.sums == [balanceSums][2]uint64{} }

// ErrChanging is about facts that differ each time.
var ErrChanging = errors.New("the facts change while they are read")

// find returns the first inode that is not balanced. There must be one. It reads everything again,
// with read, as long as it knows only a range of inodes.
func (b *balance) find(read func() error) (ino uint64, err error) {
	for !b.even() {
		i := 0
		for b.sums[i] == [2]uint64{} {
			i++
		}
		b.low += uint64(i) << b.shift
		if b.shift == 0 {
			return b.low, nil
		}
		b.shift = max(b.shift-balanceBits, 0)
		b.sums = [balanceSums][2]uint64{}
		if err := read(); err != nil {
			return 0, err
		}
	}
	return 0, ErrChanging
}
