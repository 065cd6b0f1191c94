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

// checkRoots chooses the root to check and judges the root slots. ok is false if there is no usable
// root.
func (c *checker) checkRoots(u *layout.Unlocked) (ok bool, err error) {
	roots, bad, err := c.store.ReadRoots()
	if errors.Is(err, txn.ErrNoRoot) {
		c.problem("root slots", "no root slot verifies (%d are not empty): the volume cannot be opened; restore it from a backup", len(bad))
		return false, nil
	}
	if errors.Is(err, txn.ErrTwoRoots) {
		c.problem("root slots", "%v; the volume cannot be opened", err)
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
		c.problem("header", "it lacks the feature bit of the reference-count tree, which the volume uses")
	}
	if c.rep.Restoring = u.Restoring(); c.rep.Restoring {
		c.note("volume", "it is being restored and is incomplete; names and link counts can be checked when the restore is complete")
	}
	c.flags = u.Incompat&layout.FeatureFlags != 0
	if !r.Trees[layout.TreeSnapshots].IsZero() {
		c.snap = newSnapCheck(c)
		if u.Incompat&layout.FeatureSnapshots == 0 {
			c.problem("header", "it lacks the feature bit of snapshots, which the volume uses")
		}
	} else if r.NewestSnapshot != 0 {
		c.problem("root", "the newest snapshot has generation %d, but there are no snapshots", r.NewestSnapshot)
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
			c.problem(fmt.Sprintf("root slot %d", b.Slot), "root %d is not the predecessor of root %d: an old copy was put back", b.Root.Generation, a.Root.Generation)
		}
	}
	if u.Sequence < r.HeaderSeq {
		c.problem("header", "sequence number %d is below %d, the lowest acceptable: an old copy was put back", u.Sequence, r.HeaderSeq)
	}
	size, err := c.dev.Size()
	if err != nil {
		return false, fmt.Errorf("%w: size of the device: %w", vfs.ErrIO, err)
	}
	if uint64(size)/layout.BlockBytes < r.DeviceBlocks {
		c.problem("device", "the device has %d bytes, the volume needs %d", size, r.DeviceBlocks*layout.BlockBytes)
	}
	return true, nil
}

// checkCopies judges the two copies of a root. A torn copy of the newest root is not damage: an
// interrupted commit can leave it.
func (c *checker) checkCopies(f *txn.FoundRoot, newest bool) {
	for n, state := range f.Copies {
		where := fmt.Sprintf("root slot %d, copy %d", f.Slot, n+1)
		switch {
		case state == txn.CopyGood:
		case state == txn.CopyForked:
			c.problem(where, "it holds a different root %d: the device was assembled from two copies", f.Root.Generation)
		case header.OrdinaryCopy(state, newest):
			c.note(where, "%s; the other copy has root %d: a read-write mount rewrites it", header.CopyText(state), f.Root.Generation)
		default:
			c.problem(where, "%s; the other copy has root %d: a read-write mount repairs it", header.CopyText(state), f.Root.Generation)
		}
	}
}

// checkLog reads the operations in the log that are newer than the root.
func (c *checker) checkLog() {
	if c.root.Clean {
		return
	}
	rp, err := c.store.ReadLog(c.root)
	if err != nil {
		c.problem("log", "%v: the volume cannot be mounted", err)
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
		c.problem("log", "%v: the volume cannot be mounted", err)
	}
}

// checkSecondHeader judges the copy of the header that was not used. The roots have been read.
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
		c.note(where, "it is older than copy A: a change of keys or features was interrupted; a read-write mount completes it")
	case u.Copy == 1 && u.Ahead && header.LeftByCut(u.Second, u.Header, keys, floor):
		c.note(where, "it is newer than copy B and has no slot for this key: a change of keys was interrupted; a read-write mount with this key abandons it")
	case errors.Is(u.Other, layout.ErrHeaderStale):
		c.problem(where, "%v, and no interrupted change explains it: an old copy was put back, or a write was lost; a read-write mount repairs it", u.Other)
	default:
		c.problem(where, "%v; a read-write mount repairs it", u.Other)
	}
}
