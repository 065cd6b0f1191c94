package volume

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/shares"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// snapView is a snapshot as a read-only file system. It is a Volume with its own tree and inodes.
// Device, keys, cache and pins are those of its volume. Its blocks are not reused, because a
// snapshot in use cannot be deleted.
type snapView struct {
	*Volume
	stat vfs.StatFS
}

// StatFS implements vfs.FS: a snapshot is as large as its content, and full.
func (s *snapView) StatFS() vfs.StatFS { return s.stat }

// OpenSnapshot opens a snapshot for reading, beside the volume. Until end is called, the snapshot
// cannot be deleted and the volume cannot be closed. Call it after the last use of the file system.
func (v *Volume) OpenSnapshot(name string) (fs vfs.FS, end func(), err error) {
	t, err := v.snap.find(name, func(t *snapshot) { t.views++ })
	if err != nil {
		return nil, nil, err
	}
	end = func() {
		v.snap.mu.Lock()
		defer v.snap.mu.Unlock()
		t.views--
	}
	x, err := v.snap.read(t)
	if err != nil {
		end()
		return nil, nil, err
	}
	sub := &Volume{opts: v.opts, id: v.id}
	sub.store, sub.space, sub.cache, sub.dataStart = v.store, v.space, v.cache, v.dataStart
	sub.shares = shares.New(nil, v.space, 0, nil) // it drops no references
	sub.gen = x.Generation + 1
	sub.own()
	sub.names.hash = v.names.hash
	sub.opts.ReadOnly = true
	sub.table.m = map[uint64]*inode{}
	sub.blocks.Store(v.blocks.Load())
	sub.com.init()
	sub.sync.init()
	sub.snap.init()
	sub.fs = tree.New(tree.Config{ID: layout.TreeFS, Cache: v.cache}, x.Tree, x.Generation+1)
	return &snapView{sub, vfs.StatFS{BlockSize: layout.BlockBytes, Blocks: x.Blocks, Inodes: x.Inodes, NameMax: vfs.MaxNameBytes}}, end, nil
}

// find returns a snapshot after use has counted its user.
func (s *snapshots) find(name string, use func(t *snapshot)) (*snapshot, error) {
	v := s.v
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.byName[name]
	switch {
	case v.life.closing.Load():
		return nil, vfs.ErrClosed
	case t == nil || t.going:
		return nil, fmt.Errorf("%w: %.200q", ErrNoSnapshot, name)
	}
	use(t)
	return t, nil
}

// unhold releases Diff's hold.
func (s *snapshots) unhold(t *snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.holds--
}

// read reads the item of a snapshot.
func (s *snapshots) read(t *snapshot) (x layout.Snapshot, err error) {
	val, ok, err := s.tree.Get(items.SnapshotKey(t.id), nil)
	if err == nil && !ok {
		err = fmt.Errorf("%w: the snapshot's item is missing", layout.ErrCorrupt)
	}
	if err == nil {
		x, err = layout.DecodeSnapshot(val)
	}
	if err != nil {
		return x, txn.Wrap(fmt.Errorf("snapshot %q: %w", t.name, err))
	}
	return x, nil
}

// beginClose sets closing, unless a snapshot is in use or closing is already set. With alone, a
// running Diff prevents it, too.
func (s *snapshots) beginClose(alone bool) (first bool, err error) {
	v := s.v
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.live {
		if t.views > 0 || alone && t.holds > 0 {
			err = errors.Join(err, fmt.Errorf("%w: %s", ErrSnapshotInUse, t.name))
		}
	}
	if err != nil {
		return false, err
	}
	return v.life.closing.CompareAndSwap(false, true), nil
}
