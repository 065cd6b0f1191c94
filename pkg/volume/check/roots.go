package check

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// checkRoots chooses the root to check and judges the slots. ok is false if
// there is none.
func (c *checker) checkRoots(u *layout.Unlocked) (ok bool, err error) {
	roots, bad, err := c.store.ReadRoots()
	if errors.Is(err, txn.ErrNoRoot) {
		c.problem("root slots", "none of the slots verifies (%d hold something): the volume can not be opened", len(bad))
		return false, nil
	}
	if errors.Is(err, txn.ErrTwoRoots) {
		c.problem("root slots", "%v; it can not be opened", err)
		return false, nil
	}
	if err != nil {
		return false, txn.Wrap(err)
	}
	r := roots[0].Root
	if a := c.opts.Anchor; a != nil {
		if _, err := header.MatchAnchor(a, c.store.Keys, r, roots[0].R, header.AnchorTree(c.store, r)); err != nil {
			c.problem("anchor", "%v", err)
		}
	}
	c.root, c.rep.Generation = r, r.Generation
	if c.sharing = u.Incompat&layout.FeatureShares != 0; !c.sharing && !r.Trees[layout.TreeShares].IsZero() {
		c.problem("header", "it does not name the feature that the reference-count tree needs")
	}
	c.flags = u.Incompat&layout.FeatureFlags != 0
	if !r.Trees[layout.TreeSnapshots].IsZero() {
		c.snap = newSnapCheck(c)
		if u.Incompat&layout.FeatureSnapshots == 0 {
			c.problem("header", "it does not name the feature of snapshots, which the volume uses")
		}
	} else if r.NewestSnapshot != 0 {
		c.problem("root", "it says that the newest snapshot is of generation %d, there is none", r.NewestSnapshot)
	}
	c.res.named = u.Incompat&layout.FeatureReserved != 0
	c.hash = items.NewHasher(r.HashSeed)
	c.total = (r.DeviceBlocks - r.DataStart() - min(r.FreeBlocks, r.DeviceBlocks-r.DataStart())) * layout.BlockBytes
	for _, slot := range bad {
		where := fmt.Sprintf("root slot %d", slot)
		if what, damage := header.JudgeSlot(roots, slot); damage {
			c.problem(where, "%s", what)
		} else {
			c.note(where, "%s", what)
		}
	}
	for i := range roots {
		c.checkCopies(&roots[i], i == 0)
	}
	for i := 1; i < len(roots); i++ {
		if a, b := &roots[i-1], &roots[i]; a.Root.Generation == b.Root.Generation+1 && a.Root.PrevR != b.R {
			c.problem(fmt.Sprintf("root slot %d", b.Slot), "root %d is not the one that root %d follows: an old copy was put in its place", b.Root.Generation, a.Root.Generation)
		}
	}
	if u.Sequence < r.HeaderSeq {
		c.problem("header", "its sequence number is %d, the volume accepts %d and above: an old copy was put back", u.Sequence, r.HeaderSeq)
	}
	size, err := c.dev.Size()
	if err != nil {
		return false, fmt.Errorf("%w: size of the device: %w", vfs.ErrIO, err)
	}
	if uint64(size)/layout.BlockBytes < r.DeviceBlocks {
		c.problem("device", "it has %d bytes, the volume %d", size, r.DeviceBlocks*layout.BlockBytes)
	}
	return true, nil
}

// checkCopies judges the two copies of a root. Of the newest one, which a commit
// that was cut may have left half written, a torn copy is no damage.
func (c *checker) checkCopies(f *txn.FoundRoot, newest bool) {
	for n, state := range f.Copies {
		where := fmt.Sprintf("root slot %d, copy %d", f.Slot, n+1)
		switch {
		case state == txn.CopyGood:
		case state == txn.CopyForked:
			c.problem(where, "it holds another root %d: the device was put together from two", f.Root.Generation)
		case header.OrdinaryCopy(state, newest):
			c.note(where, "%s, root %d is in the other copy: a read-write mount writes it again", header.CopyText(state), f.Root.Generation)
		default:
			c.problem(where, "%s, root %d is in the other copy: a read-write mount repairs it", header.CopyText(state), f.Root.Generation)
		}
	}
}

// checkLog reads what the log holds beyond the root.
func (c *checker) checkLog() {
	if c.root.Clean {
		return
	}
	rp, err := c.store.ReadLog(c.root)
	if err != nil {
		c.problem("log", "%v: the volume can not be mounted", err)
		return
	}
	scratch := make([]byte, txn.ReadBytes)
	err = c.store.EachOp(c.root, rp, len(rp.Ends), func(record int, op *layout.Op) error {
		if op.Seq < c.root.OpSeq {
			return nil
		}
		c.rep.NeedsReplay = true
		okay, err := c.store.DataArrived(op, scratch)
		if err == nil && !okay && record < rp.Certain {
			c.inodeProblem(op.Ino, fmt.Sprintf(" at %d+%d", op.Off, op.Len), "data that the log refers to does not verify")
		}
		return err
	})
	if err != nil {
		c.problem("log", "%v: the volume can not be mounted", err)
	}
}

// checkSecondHeader judges the copy of the header that was not used. The roots
// were read.
func (c *checker) checkSecondHeader(u *layout.Unlocked) {
	if u.Other == nil {
		return
	}
	where, floor := "header copy "+string("BA"[u.Copy]), uint64(0)
	if c.root != nil {
		floor = c.root.HeaderSeq
	}
	switch keys := c.store.Keys; {
	case u.Copy == 0 && errors.Is(u.Other, layout.ErrHeaderStale) && header.LeftByCut(u.Header, u.Second, keys, floor):
		c.note(where, "it is the header before that of copy A: a change of the keys or features was cut; a read-write mount ends it")
	case u.Copy == 1 && u.Ahead && header.LeftByCut(u.Second, u.Header, keys, floor):
		c.note(where, "it is the header after that of copy B, and has no slot for this key: a change of the keys was cut; a read-write mount by this key gives it up")
	case errors.Is(u.Other, layout.ErrHeaderStale):
		c.problem(where, "%v, and not by a change that was cut: an old copy was put back, or a write was lost; a read-write mount repairs it", u.Other)
	default:
		c.problem(where, "%v; a read-write mount repairs it", u.Other)
	}
}
