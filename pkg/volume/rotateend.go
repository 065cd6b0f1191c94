package volume

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// spaceBatch is the number of regions of the space tree that one commit rewrites.
const spaceBatch = 16

// rotateSpace rewrites the space tree. Only commits change it, so it marks regions as changed.
func (r *rotator) rotateSpace() error {
	v := r.v
	target := r.target.Load()
	for {
		regions, err := r.staleRegions(target)
		if err != nil || len(regions) == 0 {
			return err
		}
		if err := r.pace(uint64(len(regions)) * layout.NodeBytes); err != nil {
			return err
		}
		c := reservation{nodes: 4*len(regions) + opNodes, urgent: true}
		if err := r.reserve(c, false); err != nil {
			return err
		}
		for _, idx := range regions {
			if err = v.space.Touch(idx); err != nil {
				break
			}
		}
		if err == nil {
			err = v.com.commitAll()
		}
		v.adm.done(c)
		if err != nil {
			return txn.Wrap(err)
		}
	}
}

// staleRegions returns regions whose change rewrites the stale pages of the space tree.
func (r *rotator) staleRegions(target uint32) (regions []uint64, err error) {
	v := r.v
	for from, more := (layout.Key{}), true; more && len(regions) < spaceBatch; {
		from, more, err = v.com.spaces.Leaf(from, func(l tree.Leaf) {
			if l.Epoch == 0 || l.Epoch >= target {
				return
			}
			switch k := l.Key(l.First); k.Type {
			case layout.KeyGroup:
				regions = append(regions, k.Sub*layout.GroupRegions)
			case layout.KeyTop:
				regions = append(regions, k.Sub*layout.TopGroups*layout.GroupRegions)
			default:
				regions = append(regions, k.Sub)
			}
		})
		if err != nil {
			return nil, txn.Wrap(fmt.Errorf("tree of space: %w", err))
		}
	}
	return regions, nil
}

// needsOld describes what still needs an epoch below the target; "" if nothing does.
func (r *rotator) needsOld() (waits string, snapshots []string, err error) {
	v := r.v
	target := r.target.Load()
	r.mu.Lock()
	bad := slices.Clone(r.bad)
	r.mu.Unlock()
	if len(bad) > 0 {
		return "damaged data cannot be rewritten; delete these files or restore them:  " + strings.Join(bad, "; "), nil, nil
	}
	for _, s := range r.snapshotEpochs() {
		if s.oldest < target {
			snapshots = append(snapshots, s.name)
		}
	}
	if len(snapshots) > 0 {
		return "these local snapshots need the old key; delete them:  " + strings.Join(snapshots, ", "), snapshots, nil
	}
	a := &v.anc
	a.mu.Lock()
	kept := a.newest.gen != 0 || len(a.offered) > 0
	epoch := a.newest.Epoch
	a.mu.Unlock()
	if kept && epoch < target {
		return "the newest confirmed root anchor uses the old key: confirm a new one", nil, nil
	}
	k := &v.keys
	k.mu.Lock()
	defer k.mu.Unlock()
	var missing []int
	for i := range k.header.Slots {
		if _, ok := k.next[i]; !ok && k.header.Slots[i].Type != crypto.SlotEmpty {
			missing = append(missing, i)
		}
	}
	if len(missing) > 0 {
		return fmt.Sprintf("%v: %s", ErrKeyMissing, slotNames(k.header, missing)), nil, nil
	}
	return "", nil, nil
}

// snapshotEpoch is a local snapshot and the oldest key epoch that it needs.
type snapshotEpoch struct {
	name   string
	oldest uint32
}

// retire removes old epochs that nothing needs any more. done is false if something interfered.
func (r *rotator) retire() (done bool, err error) {
	v := r.v
	r.tell(RotationFinishing, "", nil)
	target := r.target.Load()
	// First the log, whose places are free by now: old frames contain data. Then all root slots.
	if err := r.wipeLog(); err != nil {
		return false, err
	}
	for range layout.RootSlots {
		if r.quitting() {
			return false, errRotationStops
		}
		if err := r.commitThawed(); err != nil {
			return false, err
		}
	}
	err = v.keys.change(func() (err error) {
		done, err = r.dropEpochs(target)
		return err
	})
	return done, err
}

// commitThawed is commitAll, but commits even if a freeze has just committed.
func (r *rotator) commitThawed() error {
	v := r.v
	if err := v.frozen.enter(context.Background()); err != nil { // Close thaws
		return err
	}
	defer v.frozen.leave()
	return v.com.commitAll()
}

// dropEpochs removes all epochs but the target from the slots and from memory. It runs in
// keyring.change.
func (r *rotator) dropEpochs(target uint32) (done bool, err error) {
	v := r.v
	k := &v.keys
	if s := r.current(); s.Target != target || s.Again || int(s.Tree) < layout.Trees-1 {
		return false, nil
	}
	h := *k.header
	for i := range h.Slots {
		if h.Slots[i].Type == crypto.SlotEmpty {
			continue
		}
		next, ok := k.next[i]
		if !ok {
			return false, nil // needsOld describes the reason
		}
		h.Slots[i] = next
	}
	if err := v.keys.writeHeader(&h); err != nil {
		return false, err
	}
	if err := v.keys.raiseFloor(); err != nil {
		return false, err
	}
	// Wait for readers that found records before the walk rewrote them.
	v.space.Drain()
	n := len(k.epochs) - 1
	crypto.EraseEpochs(k.epochs[:n])
	k.epochs, k.next = slices.Clone(k.epochs[n:]), nil
	v.store.Keys.DropBelow(target)
	r.target.Store(0)
	r.set(layout.Rotation{})
	if err := r.storeNext(nil, v.store.Keys.Newest()); err != nil {
		return false, err
	}
	r.tell(RotationNone, "", nil)
	return true, nil
}

// wipeLog overwrites frames of older epochs in the log.
func (r *rotator) wipeLog() error {
	v := r.v
	// After two commits, neither of the two newest roots needs frames from before the new epoch.
	for range 2 {
		if err := r.commitThawed(); err != nil {
			return err
		}
	}
	const step = 256
	for at := uint64(0); at < v.log.Frames(); at += step {
		if r.quitting() {
			return errRotationStops
		}
		if err := r.pace(step * layout.BlockBytes); err != nil {
			return err
		}
		if err := v.frozen.enter(context.Background()); err != nil { // not during a freeze; Close thaws
			return err
		}
		err := v.sync.alone(func() error {
			err := v.log.Wipe(at, step)
			v.fail(err) // before the next sync
			return err
		})
		v.frozen.leave()
		if err != nil {
			return err
		}
	}
	return nil
}

// oldestEpoch is the oldest key epoch that a head with this rotation state may need; 0: any.
func oldestEpoch(r *layout.Rotation) uint32 {
	if r.Target != 0 && int(r.Tree) >= layout.Trees-1 && !r.Again {
		return r.Target // the walk has ended: only snapshots need older epochs
	}
	return 0
}

// snapshotEpochs lists what may need older key epochs than the head: snapshots, and an abandoned
// head, whose pages are read to free them.
func (r *rotator) snapshotEpochs() (list []snapshotEpoch) {
	v := r.v
	s := &v.snap
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.live {
		list = append(list, snapshotEpoch{t.name, t.epoch})
	}
	if s.abandoned != nil {
		list = append(list, snapshotEpoch{"(head abandoned by a rollback)", 0})
	}
	return list
}
