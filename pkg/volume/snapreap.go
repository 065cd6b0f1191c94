package volume

import (
	"fmt"
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// DeleteSnapshot deletes a snapshot, durably. The space that only it held is freed in the
// background, and by the next mount if necessary. WaitFreed waits for that.
func (v *Volume) DeleteSnapshot(name string) error {
	s := &v.snap
	s.manage.Lock()
	defer s.manage.Unlock()
	if err := v.writable(); err != nil {
		return err
	}
	s.mu.Lock()
	t := s.byName[name]
	inUse := t != nil && t.views+t.holds > 0
	if t != nil && !inUse {
		t.going = true
	}
	s.mu.Unlock()
	switch {
	case t == nil:
		return fmt.Errorf("%w: %.200q", ErrNoSnapshot, name)
	case inUse:
		return fmt.Errorf("%w: %s", ErrSnapshotInUse, name)
	}
	err := v.snap.deleteMarked(t, func() error { return v.snap.markDeleted(t) })
	if err != nil {
		s.mu.Lock()
		t.going = false
		s.mu.Unlock()
	}
	return err
}

// deleteMarked queues a snapshot to be freed. mark removes it from live, inside the gate. The caller holds
// manage.
func (s *snapshots) deleteMarked(t *snapshot, mark func() error) error {
	v := s.v
	// Until the dead lists of a rollback are freed, none of its points may be used again.
	if err := s.waitAbandoned(); err != nil {
		return err
	}
	c := reservation{nodes: opNodes, urgent: true, snaps: true}
	if err := v.adm.reserve(c); err != nil {
		return err
	}
	defer v.adm.done(c)
	err := v.inGate(mark)
	if err == nil {
		err = v.com.commitAll()
	}
	if err != nil {
		return v.sync.syncErr(err)
	}
	v.rot.kick()
	// Only now: earlier drops of the same generation are in the lists.
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dying = append(s.dying, t)
	s.stalled = nil
	s.cond.Broadcast()
	return nil
}

// markDeleted sets a snapshot's flag of deletion. The caller is in the gate.
func (s *snapshots) markDeleted(t *snapshot) error {
	err := s.tree.Update(func(w *tree.Writer) error {
		val, ok, err := w.Get(items.SnapshotKey(t.id))
		if err == nil && !ok {
			err = fmt.Errorf("%w: snapshot %q is missing", layout.ErrCorrupt, t.name)
		}
		if err != nil {
			return err
		}
		x, err := layout.DecodeSnapshot(val)
		if err != nil {
			return err
		}
		x.Deleting = true
		return w.Put(items.SnapshotKey(t.id), x.Append(nil))
	})
	if err != nil {
		return err
	}
	s.forget(t)
	return nil
}

// forget removes a snapshot from live, so that it no longer holds what the head drops. The caller
// is in the gate.
func (s *snapshots) forget(t *snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !t.passing {
		delete(s.byName, t.name)
	}
	i := slices.Index(s.live, t)
	s.live = slices.Delete(s.live, i, i+1)
	if i == len(s.live) && i > 0 { // the newest one: its point is no longer used
		s.state.Point, s.dirty = s.live[i-1].id, true
	}
	s.changed()
}

// WaitFreed waits until the space of all deleted snapshots and rollbacks is freed (usable one
// commit later). It returns an error if freeing has stopped.
func (v *Volume) WaitFreed() error {
	return v.snap.waitWhile(func(s *snapshots) bool { return len(s.dying) > 0 || s.abandoned != nil })
}

func (s *snapshots) waitAbandoned() error {
	return s.waitWhile(func(s *snapshots) bool { return s.abandoned != nil })
}

func (s *snapshots) waitWhile(busy func(s *snapshots) bool) error {
	v := s.v
	s.mu.Lock()
	defer s.mu.Unlock()
	for busy(s) {
		switch {
		case s.stalled != nil:
			return txn.Wrap(s.stalled)
		case v.Failed() != nil:
			return v.writable()
		case s.stop || v.ring == nil:
			return vfs.ErrClosed
		}
		s.cond.Wait()
	}
	return nil
}

// startReaper starts freeing deleted snapshots, including those left by earlier mounts.
func (s *snapshots) startReaper() {
	v := s.v
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		f := &freer{v: v}
		for {
			s.mu.Lock()
			for !s.stop && (s.stalled != nil || len(s.dying) == 0 && s.abandoned == nil) && !(v.ranges.mayRestamp() && !s.restampFailed) {
				s.cond.Wait()
			}
			if s.stop {
				s.cond.Broadcast()
				s.mu.Unlock()
				return
			}
			if s.stalled != nil || len(s.dying) == 0 && s.abandoned == nil {
				s.passing = true
				s.mu.Unlock()
				v.ranges.restampAll()
				s.mu.Lock()
				s.passing = false
				s.mu.Unlock()
				v.adm.wake()
				continue
			}
			var t *snapshot
			a := s.abandoned
			if a == nil {
				t = s.dying[0]
			}
			s.mu.Unlock()
			done, err := s.freeStep(f, t, a)
			if err == nil && !done {
				continue
			}
			f.point = 0
			s.mu.Lock()
			switch {
			case err != nil:
				s.stalled = err
				if v.opts.Log != nil && v.Failed() == nil && !s.stop {
					v.opts.Log.Warn("freeing the space of a deleted snapshot failed; the next mount tries again", "volume", v.id.String(), "error", err)
				}
			case a != nil:
				s.abandoned = nil
				v.rot.kick()
			default:
				s.dying = s.dying[1:]
			}
			s.cond.Broadcast()
			s.mu.Unlock()
		}
	}()
}

func (s *snapshots) endReaper() {
	s.mu.Lock()
	s.stop = true
	s.cond.Broadcast()
	s.mu.Unlock()
	<-s.done
}

// freeStep frees a bounded part of what a rollback or a deleted snapshot left. The last step
// removes its item.
func (s *snapshots) freeStep(f *freer, t *snapshot, a *abandoned) (done bool, err error) {
	v := s.v
	if a != nil {
		if err := s.prefetchAbandoned(a); err != nil {
			return false, txn.Wrap(err)
		}
	}
	runs, pages := s.freeBudget()
	c := reservation{nodes: freeNodes + pages, urgent: true, snaps: true}
	if err := v.adm.reserve(c); err != nil {
		return false, err
	}
	defer v.adm.done(c)
	v.gate.RLock()
	defer v.gate.RUnlock()
	if err := v.writable(); err != nil {
		return false, err
	}
	f.begin(runs)
	err = s.tree.Update(func(w *tree.Writer) error {
		f.w = w
		if a != nil {
			done, err = f.passAbandoned(a)
			return err
		}
		s.mu.Lock()
		only := s.only(t.id)
		s.mu.Unlock()
		if done, err = f.pass(only); err == nil && done {
			f.changed = true
			_, err = w.Delete(items.SnapshotKey(t.id))
		}
		return err
	})
	f.w = nil
	if err != nil {
		if err = txn.Wrap(err); f.changed { // half a step must not be committed
			v.fail(err)
		}
		return false, err
	}
	if f.changed {
		s.mu.Lock()
		s.state.DeadBlocks -= min(f.dead, s.state.DeadBlocks)
		s.dirty = true
		s.mu.Unlock()
		v.adm.changed()
	}
	return done, nil
}
