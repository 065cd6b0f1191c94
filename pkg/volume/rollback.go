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

// abandoned is what a rollback left that is not freed yet. Guarded by snapshots.mu.
type abandoned struct {
	layout.Abandoned
	point uint64 // of the head since then; dead lists of earlier points, from the snapshot's on, are obsolete
}

// Rollback makes a snapshot's tree the head and closes the volume. Nobody else may be using the
// volume. If newer snapshots exist, it returns ErrNewerSnapshots, unless deleteNewer is set. A
// crash leaves the volume unchanged or rolled back. The space that only the old head and the
// deleted snapshots held is freed in the background when the volume is open again.
//
// If Rollback changes nothing for one of these reasons, the volume stays open.
func (v *Volume) Rollback(name string, deleteNewer bool) error {
	s := &v.snap
	s.manage.Lock()
	defer s.manage.Unlock()
	if err := v.writable(); err != nil {
		return err
	}
	s.mu.Lock()
	t := s.byName[name]
	newer := 0
	if t != nil {
		newer = len(s.live) - 1 - slices.Index(s.live, t)
	}
	last := ""
	if newer > 0 {
		last = s.live[len(s.live)-1].name
	}
	s.mu.Unlock()
	switch {
	case t == nil:
		return fmt.Errorf("%w: %.200q", ErrNoSnapshot, name)
	case newer > 0 && !deleteNewer:
		return fmt.Errorf("%w: %d are newer than %s, up to %s", ErrNewerSnapshots, newer, name, last)
	}
	if err := v.snap.waitAbandoned(); err != nil {
		return err
	}
	x, err := v.snap.read(t)
	if err != nil {
		return err
	}
	c := reservation{nodes: opNodes + newer/16, urgent: true}
	if err := v.adm.reserve(c); err != nil {
		return err
	}
	defer v.adm.done(c)
	switch first, err := v.snap.beginClose(true); {
	case err != nil:
		return err
	case !first:
		return vfs.ErrClosed
	}
	return txn.Wrap(v.close(func() error { return v.snap.switchHead(t, &x) }))
}

// switchHead makes a snapshot's tree the head with the next commit. Nothing is dirty, and nobody
// else uses the volume any more.
func (s *snapshots) switchHead(t *snapshot, x *layout.Snapshot) error {
	v := s.v
	s.mu.Lock()
	i := slices.Index(s.live, t)
	gone := slices.Clone(s.live[i+1:])
	for _, d := range s.dying { // older ones are still being freed
		if d.id > t.id {
			gone = append(gone, d)
		}
	}
	s.live = s.live[:i+1]
	point := s.state.NextID
	s.state.NextID++
	s.state.Point, s.dirty = point, true
	s.changed()
	s.mu.Unlock()
	left := layout.Abandoned{Snapshot: t.id, Generation: t.gen, Tree: v.durable.root.Trees[layout.TreeFS]}
	err := s.tree.Update(func(w *tree.Writer) error {
		for _, g := range gone {
			if _, err := w.Delete(items.SnapshotKey(g.id)); err != nil {
				return err
			}
		}
		return w.Put(items.AbandonedKey(uint64(point)), left.Append(nil))
	})
	if err != nil {
		v.fail(err)
		return err
	}
	v.fs = tree.New(tree.Config{ID: layout.TreeFS, Cache: v.cache, Free: v.freePage, Dirtied: v.adm.dirtyNodes}, x.Tree, v.gen)
	v.trees[slices.IndexFunc(v.trees, func(t *tree.Tree) bool { return t.ID() == layout.TreeFS })] = v.fs
	v.rot.disturb() // the head has older epochs again
	v.ranges.rollBack(x)
	v.com.inos.mu.Lock()
	v.com.inos.inodes = x.Inodes
	v.com.inos.mu.Unlock()
	return nil
}

// prefetchAbandoned reads what the next step needs, without locks.
func (s *snapshots) prefetchAbandoned(a *abandoned) error {
	v := s.v
	if !a.Lists {
		return nil
	}
	p, in := a.Tree, tree.Range{}
	for p.Birth > a.Generation {
		n, err := v.cache.Page(&p, in)
		if err != nil || n.Level() == 0 {
			return err
		}
		i := tree.Slot(n, a.Next)
		in = in.Child(n, i)
		if p, err = tree.ChildPointer(&p, n, i); err != nil {
			return err
		}
	}
	return nil
}

// passAbandoned frees a part of what a rollback left. First come its dead lists, where the
// snapshot's runs become live again, then the pages and data of the old head that are younger than
// the snapshot.
func (f *freer) passAbandoned(a *abandoned) (done bool, err error) {
	next := a.Abandoned
	if !a.Lists {
		if next.Lists, err = f.passLists(a); err != nil || !next.Lists {
			return false, err
		}
	} else {
		done = next.Tree.Birth <= next.Generation
		if !done {
			if done, err = f.passPage(&next, &next.Tree, tree.Range{}); err != nil {
				return false, err
			}
		}
	}
	f.changed = true
	if done {
		_, err = f.w.Delete(items.AbandonedKey(a.point))
	} else {
		err = f.w.Put(items.AbandonedKey(a.point), next.Append(nil))
	}
	f.v.snap.mu.Lock()
	a.Abandoned = next
	f.v.snap.mu.Unlock()
	return done, err
}

// passLists frees a bounded part of the dead lists that a rollback left.
func (f *freer) passLists(a *abandoned) (done bool, err error) {
	from, to := uint64(a.Snapshot), a.point
	k, val, err := f.first(layout.Key{Obj: from}, layout.Key{Obj: to - 1, Type: 0xff, Sub: ^uint64(0)})
	if err != nil || k.Obj == 0 {
		return err == nil, err
	}
	switch k.Type {
	case layout.KeyDeadLog:
		return false, f.takeItem(k, a.Snapshot)
	case layout.KeyDeadSum:
		return false, f.freePiece(k, val, k.Sub >= uint64(a.Snapshot))
	}
	return false, fmt.Errorf("%w: unexpected item %v in a dead list", layout.ErrCorrupt, k)
}

// passLeaf frees what the remaining items of a leaf refer to, within the limits of the step.
func (f *freer) passLeaf(a *layout.Abandoned, n *layout.Node) (done bool, err error) {
	for i := range n.Count() {
		k := n.Key(i)
		if k.Type != layout.KeyExtent || k.Obj == 0 || k.Less(a.Next) {
			continue
		}
		e, err := layout.DecodeFileExtent(n.Value(i))
		if err != nil {
			return false, err
		}
		if e.RefBirth <= a.Generation {
			continue
		}
		if f.runs == 0 || f.blocks < int(e.Blocks()) {
			a.Next = k
			return false, nil
		}
		if _, err := f.free(layout.Run{Start: e.Addr / layout.BlockBytes, Count: uint32(e.Blocks())}); err != nil {
			return false, err
		}
	}
	return true, nil
}

// passPage frees the next leaf below p, and the page itself when everything below it is done. It
// recurses at most to the root's level, which is at most 16.
func (f *freer) passPage(a *layout.Abandoned, p *layout.Pointer, in tree.Range) (done bool, err error) {
	n, err := f.v.cache.Page(p, in)
	if err != nil {
		return false, err
	}
	if n.Level() == 0 {
		if done, err := f.passLeaf(a, n); err != nil || !done {
			return false, err
		}
	} else {
		for i := tree.Slot(n, a.Next); i < n.Count(); i++ {
			c, err := tree.ChildPointer(p, n, i)
			if err != nil {
				return false, fmt.Errorf("child %d of the page at %d: %w", i, p.Addr, err)
			}
			if c.Birth <= a.Generation {
				continue // it belongs to the snapshot
			}
			if done, err := f.passPage(a, &c, in.Child(n, i)); err != nil || !done {
				return false, err
			}
			if i+1 < n.Count() {
				a.Next = n.Key(i + 1)
				return false, nil
			}
		}
	}
	f.changed = true
	items.EachCopy(p, f.v.space.Free)
	return true, nil
}
