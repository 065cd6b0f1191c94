package items

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// Sharing is a run of the reference-count tree.
type Sharing struct {
	Start, End uint64 // blocks
	Extra      uint32 // references beyond the first
}

// GetSharing decodes an item of the reference-count tree.
func GetSharing(k layout.Key, val []byte) (Sharing, error) {
	s, err := layout.DecodeShare(k.Sub, val)
	if err == nil && (k.Obj != 0 || k.Type != layout.KeyShare) {
		err = fmt.Errorf("%w: invalid shared run at key %v", layout.ErrCorrupt, k)
	}
	return Sharing{k.Sub, k.Sub + uint64(s.Count), s.Extra}, err
}

// EachRegion calls fn for the part of a run in each region.
func EachRegion(run layout.Run, fn func(region, from, to uint64) error) error {
	for at, end := run.Start, run.Start+uint64(run.Count); at < end; {
		idx := at / layout.RegionBlocks
		to := min(end, (idx+1)*layout.RegionBlocks)
		if err := fn(idx, at, to); err != nil {
			return err
		}
		at = to
	}
	return nil
}
