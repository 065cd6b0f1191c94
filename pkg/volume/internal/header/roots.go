package header

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// ErrTruncated means that the device is smaller than its volume.
var ErrTruncated = errors.New("device is smaller than its volume")

// NewestRoot chooses the root to open (I4), and the next generation.
func NewestRoot(dev device.Device, s *txn.Store, u *layout.Unlocked) (found []txn.FoundRoot, bad []int, err error) {
	if found, bad, err = s.ReadRoots(); err != nil {
		return nil, bad, err
	}
	root := found[0].Root
	if u.Sequence < root.HeaderSeq {
		return nil, bad, fmt.Errorf("%w: header sequence number %d is below %d, the lowest acceptable: an old header was put back", layout.ErrHeaderForged, u.Sequence, root.HeaderSeq)
	}
	size, err := dev.Size()
	if err != nil {
		return nil, bad, err
	}
	if uint64(size)/layout.BlockBytes < root.DeviceBlocks {
		return nil, bad, fmt.Errorf("%w: it has %d of %d bytes", ErrTruncated, size, root.DeviceBlocks*layout.BlockBytes)
	}
	return found, bad, nil
}

// OrdinaryCopy reports whether an interrupted commit, or an earlier version, can have left a copy
// of a root in this state.
func OrdinaryCopy(state txn.CopyState, newest bool) bool {
	return state != txn.CopyForked && (newest || state == txn.CopyBlank || state == txn.CopyOld)
}

// CopyText describes what is wrong with a copy of a root.
func CopyText(s txn.CopyState) string {
	switch s {
	case txn.CopyBlank:
		return "it is blank"
	case txn.CopyOld:
		return "it holds an older root"
	}
	return "it " + s.String()
}

// JudgeSlot judges a slot of which no copy verifies. A crash tears the slot that a commit writes.
// The next commit either repeats that generation, and so repairs the slot, or skips it; then its
// root names the older one as its predecessor.
func JudgeSlot(roots []txn.FoundRoot, slot int) (what string, damage bool) {
	newest := roots[0].Root.Generation
	if uint64(slot) == (newest+1)%layout.RootSlots {
		return fmt.Sprintf("it does not verify: the commit after root %d was interrupted", newest), false
	}
	gen := newest - (newest-uint64(slot))%layout.RootSlots
	if gen > 0 && gen < newest {
		for i := 1; i < len(roots); i++ {
			a, b := &roots[i-1], &roots[i]
			if a.Root.Generation > gen && b.Root.Generation < gen && a.Root.PrevR == b.R {
				return fmt.Sprintf("it does not verify: the commit of root %d was interrupted, and root %d follows root %d", gen, a.Root.Generation, b.Root.Generation), false
			}
		}
	}
	return "it does not verify: an older root is damaged", true
}
