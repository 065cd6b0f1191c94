package volume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// staleRun is a part of a file that is sealed under an older epoch.
type staleRun struct {
	sharedRef
	kept bool // a snapshot holds it
}

// rotateStep rewrites the content of one leaf, and the leaf itself. It advances s.
func (r *rotator) rotateStep(s *layout.Rotation) (more bool, err error) {
	v := r.v
	t := r.treeByID(s.Tree)
	if t == nil {
		return false, nil
	}
	var stale []staleRun
	var first layout.Key
	old, blocks, newest := false, uint64(0), v.snap.newest.Load()
	next, more, err := t.Leaf(s.Next, func(l tree.Leaf) {
		first = l.Key(l.First)
		old = l.Epoch != 0 && l.Epoch < s.Target
		for i := l.First; i < l.Count(); i++ {
			k, val := l.Key(i), l.Value(i)
			if s.Tree != layout.TreeFS || k.Type != layout.KeyExtent {
				continue
			}
			n := layout.ExtentBlocks(val)
			blocks += n
			if n > 0 && recordEpoch(val) < s.Target {
				stale = append(stale, staleRun{refOf(k, val), refBirth(val) <= newest})
			}
		}
	})
	if err != nil {
		return false, txn.Wrap(fmt.Errorf("tree %d: %w", s.Tree, err))
	}
	for _, x := range stale {
		// This may change; resealBuffer checks again under locks.
		if shared, err := r.sharedNow(&x.sharedRef); err != nil {
			return false, err
		} else if shared {
			r.shared = true
			continue
		}
		if err := r.reseal(x, s.Target); err != nil {
			return false, err
		}
	}
	if old {
		if err := r.rotatePage(t, first); err != nil {
			return false, err
		}
	}
	s.Again = s.Again || old || len(stale) > 0
	s.Next = next
	s.Done += blocks
	return more, nil
}

// recordEpoch is the epoch of a stored extent record.
func recordEpoch(b []byte) uint32 { return binary.LittleEndian.Uint32(b[40:]) }

// refBirth is the generation in which a stored file extent's reference was made.
func refBirth(b []byte) uint64 { return binary.LittleEndian.Uint64(b[len(b)-layout.FileExtentBytes:]) }

// rotatePage makes a leaf dirty, so that it is rewritten.
func (r *rotator) rotatePage(t *tree.Tree, first layout.Key) error {
	v := r.v
	if err := r.pace(layout.NodeBytes); err != nil {
		return err
	}
	c := reservation{nodes: opNodes, urgent: true}
	if err := r.reserve(c, v.snap.newest.Load() != 0); err != nil {
		return err
	}
	defer v.adm.done(c)
	return v.inGate(func() error {
		return t.Update(func(w *tree.Writer) error { return w.Touch(first) })
	})
}

// reserve is admission.reserve, but on a full volume it waits for space. kept means that a snapshot
// keeps the old copy, so that the new one takes additional space: a part of the volume is then left
// to its users.
func (r *rotator) reserve(c reservation, kept bool) error {
	v := r.v
	for {
		if r.quitting() {
			return errRotationStops
		}
		need, waits := int64(0), "the volume is full"
		if kept {
			need, waits = r.spares()+int64(c.pages+v.adm.dirtyCount()), nearlyFull
		}
		if r.room() >= need {
			err := v.adm.reserve(c)
			if !errors.Is(err, vfs.ErrNoSpace) {
				return err
			}
		}
		// Each attempt causes commits, which wake the rotation: continue only when there is more
		// space.
		room := max(r.room(), need) + bufferPages*bufferPages
		r.tell(RotationWaiting, waits, nil)
		for r.room() < room && (!kept || v.snap.newest.Load() != 0) {
			if err := r.wait(); err != nil {
				return err
			}
		}
		kept = kept && v.snap.newest.Load() != 0
		r.tell(RotationRewriting, "", nil)
	}
}

// nearlyFull is what a rotation waits for if it would fill the volume.
const nearlyFull = "the volume is nearly full, and local snapshots hold the old copies of rewritten data: delete snapshots or files, or grow the volume"

// spares is the number of free blocks that a rotation leaves if snapshots keep old copies: a
// sixteenth of the volume.
func (r *rotator) spares() int64 {
	v := r.v
	v.adm.mu.Lock()
	defer v.adm.mu.Unlock()
	return max(2*v.adm.reserveSlots*layout.NodeBlocks, int64(v.blocks.Load()/16))
}

// room is the number of blocks that are free, or will be.
func (r *rotator) room() int64 {
	v := r.v
	free, _, waiting := v.space.Counts()
	return free + waiting
}

// pace limits the rate of the walk.
func (r *rotator) pace(n uint64) error {
	rate := r.rate.Load()
	if rate <= 0 {
		return nil
	}
	select {
	case <-time.After(time.Duration(n) * time.Second / time.Duration(rate)):
		return nil
	case <-r.quit:
		return errRotationStops
	}
}

// reseal makes stale data of a part of a file dirty, so that it is written again like other data.
// Its content does not change, and no operation is logged.
func (r *rotator) reseal(x staleRun, target uint32) error {
	v := r.v
	for end := x.block + uint64(x.count); x.block < end; {
		n := min(end, (x.block/bufferPages+1)*bufferPages) - x.block // one buffer at a time
		if err := r.pace(n * pageBytes); err != nil {
			return err
		}
		dead, err := r.resealBuffer(&x, n, target)
		if dead {
			v.background.reaper.wait() // it is being removed
		}
		if errors.Is(err, vfs.ErrCorrupt) || errors.Is(err, vfs.ErrIO) && v.Failed() == nil {
			r.unreadable(err)
			err = nil
		}
		if err != nil {
			return err
		}
		x.block += n
	}
	return nil
}

// unreadable records data that cannot be rewritten.
func (r *rotator) unreadable(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.bad) < 10 {
		r.bad = append(r.bad, err.Error())
	}
}

func (r *rotator) resealBuffer(x *staleRun, count uint64, target uint32) (dead bool, err error) {
	v := r.v
	ino, block := x.ino, x.block
	// Unless a snapshot keeps the old copy, the old place is freed: so a full volume can use the
	// reserve.
	c := reservation{pages: int(count) + 1, nodes: opNodes, urgent: !x.kept}
	if err := r.reserve(c, x.kept); err != nil {
		return false, err
	}
	defer v.adm.done(c)
	in, err := v.table.inode(vfs.Ino(ino))
	if errors.Is(err, vfs.ErrStale) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer v.table.put(in)
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.dead || !in.isReg() {
		return true, nil
	}
	if err := v.data.cutRest(in); err != nil {
		return false, err
	}
	es, err := v.data.extents(ino, block, block+count, 0)
	if err != nil {
		return false, txn.Wrap(err)
	}
	defer v.data.unload(in)
	for i := range es {
		if es[i].Epoch < target && err == nil {
			err = r.resealExtent(in, &es[i], max(block, es[i].Block), min(block+count, es[i].End()))
		}
	}
	return false, err
}

// resealExtent makes blocks [from, to) of an unshared extent dirty. The caller holds in.mu, so that
// nobody shares it meanwhile.
func (r *rotator) resealExtent(in *inode, e *items.Placed, from, to uint64) error {
	v := r.v
	run := layout.Run{Start: e.Addr/layout.BlockBytes + from - e.Block, Count: uint32(to - from)}
	switch most, err := v.shares.Most(run); {
	case err != nil:
		return txn.Wrap(err)
	case most > 0:
		r.shared = true
		return nil
	}
	if err := r.loadRun(in, from, to); err != nil {
		return err
	}
	return v.inGate(func() error {
		for s := from; s < to; s++ {
			v.data.markDirty(in, s)
		}
		return nil
	})
}

// loadRun is loadPage for blocks [from, to) of one buffer, with one read.
func (r *rotator) loadRun(in *inode, from, to uint64) error {
	v := r.v
	buf := make([]byte, (to-from)*pageBytes)
	if off := from * pageBytes; off < in.attr.Size {
		pin := v.space.Pin()
		defer v.space.Unpin(pin)
		plan, err := v.planRead(in, off, buf[:min(uint64(len(buf)), in.attr.Size-off)])
		if err == nil {
			err = plan.run(v.store)
		}
		if err != nil {
			return txn.Wrap(fmt.Errorf("inode %d at %d: %w", in.ino, off, err))
		}
	}
	in.bmu.Lock()
	defer in.bmu.Unlock()
	b := v.data.buffer(in, from/bufferPages)
	for s := from; s < to; s++ {
		i := s % bufferPages
		if b.pages[i] == nil { // pages in memory are as new or newer
			b.pages[i] = pagePool.Get().(*page)
			copy(b.pages[i][:], buf[(s-from)*pageBytes:])
		}
		b.held |= 1 << i
		in.loaded = append(in.loaded, s)
	}
	return nil
}
