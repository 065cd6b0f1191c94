package items

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// Scanner is ScanFloor of a tree, or, inside a change, of its writer.
type Scanner func(low, from, to layout.Key, fn func(k layout.Key, v []byte) bool) error

// Placed is an extent item with its key.
type Placed struct {
	Block uint64
	layout.FileExtent
}

// End is the first block after the extent.
func (p *Placed) End() uint64 { return p.Block + p.Blocks() }

// ScanExtents returns the extents of an inode that overlap [from, to), at most limit (0: all).
func ScanExtents(scan Scanner, ino, from, to uint64, limit int) (out []Placed, err error) {
	var derr error
	err = scan(ExtentKey(ino, 0), ExtentKey(ino, from), ExtentKey(ino, to-1), func(k layout.Key, val []byte) bool {
		if n := layout.ExtentBlocks(val); n > 0 && k.Sub+n <= from {
			return true // it ends before
		}
		e, err := layout.DecodeFileExtent(val)
		if err != nil {
			derr = err
			return false
		}
		if p := (Placed{k.Sub, e}); p.End() > from {
			out = append(out, p)
		}
		return limit == 0 || len(out) < limit
	})
	if err == nil {
		err = derr
	}
	if err != nil {
		return nil, fmt.Errorf("inode %d: extents from block %d: %w", ino, from, err)
	}
	return out, nil
}

// Run is the place of the extent on the device.
func (p *Placed) Run() layout.Run {
	return layout.Run{Start: p.Addr / layout.BlockBytes, Count: uint32(p.Blocks())}
}
