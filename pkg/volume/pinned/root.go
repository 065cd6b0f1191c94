package pinned

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// headerTries is how often header and roots are read until they verify. They are written rarely, so
// the second try is enough unless the device is damaged.
const headerTries = 8

// listTries is how often the list of snapshots is read on without progress. A volume would have to
// commit twice, and to use a freed page again, during each try.
const listTries = 64

// retry repeats what reads header or roots if it may have failed because they were being written.
func retry(fn func() error) (err error) {
	for range headerTries {
		err = fn()
		switch {
		case errors.Is(err, layout.ErrHeaderDamaged), errors.Is(err, layout.ErrHeaderForged), errors.Is(err, layout.ErrHeaderConflict),
			errors.Is(err, txn.ErrNoRoot), errors.Is(err, txn.ErrTwoRoots):
		default:
			return err
		}
	}
	return err
}

// unlock reads the header, and the keys in it that are not known yet. A writer replaces copy A first,
// then copy B, so there is always an intact one; but it may have become intact only after it was
// read.
func (v *Volume) unlock() (u *layout.Unlocked, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	hs, err := header.Read(v.dev)
	if err != nil {
		return nil, err
	}
	h, _, err := hs.Best()
	switch {
	case err != nil:
		return nil, err
	case v.cred == nil && h.ID != v.identity.ID:
		return nil, fmt.Errorf("%w: %v, not %v, whose keys were given", ErrOtherVolume, h.ID, v.identity.ID)
	case v.cred == nil && h.Restoring():
		return nil, layout.ErrRestoring
	case v.cred == nil:
		return &layout.Unlocked{Header: h}, nil
	case v.unlocked != nil && v.seen == h.Sequence:
		return v.unlocked, nil // opening a slot may be slow on purpose
	}
	if u, err = hs.Unlock(v.cred); err != nil {
		return nil, err
	}
	epochs := u.Epochs
	if v.keep {
		epochs, v.epochs = v.epochs, epochs
	}
	defer crypto.EraseEpochs(epochs)
	if err := v.addKeys(u.Suite, u.ID, u.Epochs); err != nil {
		return nil, err
	}
	v.unlocked, v.seen = u, h.Sequence
	return u, nil
}

// newestRoot returns the newest root, or, while roots are written, one that was the newest when it
// was called. A rotation of the data key writes the header before it writes roots under a new key.
// So all roots can be read that were written before the header was read.
func (v *Volume) newestRoot() (root *layout.Root, err error) {
	err = retry(func() error {
		u, err := v.unlock()
		if err != nil {
			return err
		}
		found, _, err := header.NewestRoot(v.dev, v.store, u)
		if err == nil {
			root = found[0].Root
		}
		return err
	})
	return root, err
}

// scanSnapshots calls fn for the listed snapshots from an ID on, until it returns false. Pages of
// the list may be freed and written again while they are read. Then there are two newer roots (I3 of
// package txn), and the scan goes on in the newest, behind the last ID that it has seen: IDs ascend,
// and are never used again. If the newest root is still the same, the page is damaged.
func (v *Volume) scanSnapshots(from uint32, fn func(id uint32, x *layout.Snapshot) bool) error {
	next, failed := items.SnapshotKey(from), uint64(0)
	for tries := 0; ; tries++ {
		root, err := v.newestRoot()
		if err != nil {
			return err
		}
		start := next
		var derr error
		t := tree.New(tree.Config{ID: layout.TreeSnapshots, Cache: v.cache}, root.Trees[layout.TreeSnapshots], root.Generation+1)
		err = t.Scan(next, layout.Key{Type: layout.KeySnapshot, Sub: 1<<32 - 1}, func(k layout.Key, val []byte) bool {
			next, _ = k.Next()
			x, err := layout.DecodeSnapshot(val)
			if err != nil {
				derr = fmt.Errorf("snapshot %d: %w", k.Sub, err)
				return false
			}
			return x.Deleting || fn(uint32(k.Sub), &x)
		})
		if err == nil {
			return derr
		}
		if start != next {
			tries = 0
		}
		if root.Generation == failed || tries == listTries || !errors.Is(err, layout.ErrCorrupt) {
			return fmt.Errorf("list of snapshots: %w", err)
		}
		failed = root.Generation
	}
}

// Snapshot opens a snapshot by its name. The caller ensures that nobody deletes it meanwhile.
func (v *Volume) Snapshot(name string) (*State, error) {
	var ref StateRef
	err := v.scanSnapshots(1, func(id uint32, x *layout.Snapshot) bool {
		if x.Name != name {
			return true
		}
		ref = NewRef(v.identity.ID, id, x)
		return false
	})
	if err != nil {
		return nil, txn.Wrap(err)
	}
	if ref.ID == 0 {
		return nil, fmt.Errorf("%w: %.200q", ErrNoSnapshot, name)
	}
	return v.At(ref)
}

// holds reports whether the volume still has a snapshot.
func (v *Volume) holds(ref *StateRef) (is bool, err error) {
	err = v.scanSnapshots(ref.ID, func(id uint32, x *layout.Snapshot) bool {
		is = id == ref.ID && x.Generation == ref.Generation
		return false
	})
	return is, err
}

// fail judges an error of reading a state. What does not verify is damaged, unless the snapshot was
// deleted, so that its blocks may have been used again.
func (s *State) fail(err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("snapshot %q: %w", s.ref.Name, err)
	switch {
	case s.v.closed.Load(): // the keys are erased, so nothing verifies
		return fmt.Errorf("snapshot %q: %w", s.ref.Name, vfs.ErrClosed)
	case !errors.Is(err, layout.ErrCorrupt):
		return txn.Wrap(err)
	}
	held, herr := s.v.holds(&s.ref)
	switch {
	case herr != nil:
		return fmt.Errorf("%w: %w: the snapshot was deleted, or the device is damaged", vfs.ErrCorrupt, err)
	case !held:
		return fmt.Errorf("%w: %w", ErrDeleted, err)
	}
	return txn.Wrap(err)
}
