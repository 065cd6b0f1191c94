package items

import (
	"cmp"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// Interval is a range of blocks of a file.
type Interval struct{ From, To uint64 }

// ScanReserved returns the reserved ranges of an inode that overlap [from, to), at
// most limit (0: all).
func ScanReserved(scan Scanner, ino, from, to uint64, limit int) (out []Interval, err error) {
	var derr error
	err = scan(ReservedKey(ino, 0), ReservedKey(ino, from), ReservedKey(ino, to-1), func(k layout.Key, val []byte) bool {
		n, err := layout.DecodeReserved(k.Sub, val)
		if err != nil {
			derr = err
			return false
		}
		if k.Sub+n > from {
			out = append(out, Interval{k.Sub, k.Sub + n})
		}
		return limit == 0 || len(out) < limit
	})
	if err = cmp.Or(err, derr); err != nil {
		return nil, fmt.Errorf("inode %d: reserved ranges from block %d: %w", ino, from, err)
	}
	return out, nil
}

// Overlap counts the blocks of [from, to) in some disjoint intervals.
func Overlap(spans []Interval, from, to uint64) (n uint64) {
	for _, s := range spans {
		if a, b := max(s.From, from), min(s.To, to); a < b {
			n += b - a
		}
	}
	return n
}
