package pinned

import (
	"fmt"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// State is the immutable state that a snapshot holds.
type State struct {
	v    *Volume
	ref  StateRef
	root layout.Pointer
	tree *tree.Tree
}

// Info describes a State.
type Info struct {
	Name       string
	Generation uint64 // at whose end the snapshot was taken
	Created    time.Time
	Inodes     uint64
	Bytes      int64    // what files and metadata took when it was made, including maps of free space
	R          [32]byte // the identity of the state (StateRef.Identity)
}

// At opens the state behind a reference. The caller ensures that nobody deletes the snapshot
// meanwhile.
func (v *Volume) At(ref StateRef) (*State, error) {
	if ref.Volume != v.identity.ID {
		return nil, fmt.Errorf("%w: %v, but the reference belongs to %v", ErrOtherVolume, v.identity.ID, ref.Volume)
	}
	p, err := layout.GetPointer(ref.root[:], layout.TreeFS)
	if err != nil || p.IsZero() || p.Birth > ref.Generation {
		return nil, fmt.Errorf("%w: it leads to no tree", ErrInvalidRef)
	}
	if v.store.Keys.Get(p.Epoch) == nil && v.cred != nil {
		err := retry(func() error { // the data key was rotated since
			_, err := v.unlock()
			return err
		})
		if err != nil {
			return nil, txn.Wrap(err)
		}
	}
	if v.store.Keys.Get(p.Epoch) == nil {
		return nil, fmt.Errorf("snapshot %q: %w: the volume has no key of epoch %d, or it was not handed over", ref.Name, vfs.ErrCorrupt, p.Epoch)
	}
	s := &State{v: v, ref: ref, root: p, tree: tree.New(tree.Config{ID: layout.TreeFS, Cache: v.cache}, p, ref.Generation+1)}
	if _, err := v.cache.Page(&p, tree.Range{}); err != nil { // what cannot be read is known now
		return nil, s.fail(err)
	}
	return s, nil
}

// Ref returns a reference that leads to the state.
func (s *State) Ref() StateRef { return s.ref }

// Info describes the state.
func (s *State) Info() Info {
	r := &s.ref
	return Info{Name: r.Name, Generation: r.Generation, Created: time.Unix(r.Created.Sec, int64(r.Created.Nsec)), Inodes: r.Inodes,
		Bytes: int64(r.Blocks) * layout.BlockBytes, R: r.Identity()}
}

// inode reads an inode. One without a name does not exist: the result is nil.
func (s *State) inode(ino uint64) (*layout.Inode, error) {
	val, ok, err := s.tree.Get(items.InodeKey(ino), nil)
	if err != nil || !ok {
		return nil, err
	}
	n, err := layout.DecodeInode(val)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", ino, err)
	}
	if n.Nlink == 0 {
		return nil, nil
	}
	return &n, nil
}

// live is inode, or an error if there is none.
func (s *State) live(ino uint64) (*layout.Inode, error) {
	n, err := s.inode(ino)
	if err == nil && n == nil {
		err = fmt.Errorf("inode %d: %w", ino, vfs.ErrStale)
	}
	return n, err
}
