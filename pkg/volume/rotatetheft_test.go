package volume

import (
	"fmt"
	"slices"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// oldKeys takes what a thief of the volume's keys has: all epochs of now.
func oldKeys(t testing.TB, v *Volume) []*crypto.EpochKeys {
	t.Helper()
	v.keys.mu.Lock()
	defer v.keys.mu.Unlock()
	var out []*crypto.EpochKeys
	for _, e := range v.keys.epochs {
		k, err := crypto.DeriveEpochKeys(v.keys.header.Suite, v.id, e.Epoch, e.VMK)
		ok(t, err)
		t.Cleanup(k.Erase)
		out = append(out, k)
	}
	return out
}

// thief tries a stolen key on what a device holds.
type thief struct {
	dev    *device.Mem
	store  *txn.Store // under the keys of now
	k      *crypto.EpochKeys
	mounts [][16]byte
	opened []string // what the key opens

	block, plain []byte
}

func (x *thief) tell(format string, args ...any) {
	x.opened = append(x.opened, fmt.Sprintf(format, args...))
}

// theft tries stolen keys on all that a device holds of a volume's present state:
// header, root slots, log, and what the newest root reaches. It returns what they
// open.
func theft(dev *device.Mem, c crypto.Credential, stolen []*crypto.EpochKeys, mounts [][16]byte) (opened []string, err error) {
	u, keys, err := header.Unlock(dev, c, nil)
	if err != nil {
		return nil, err
	}
	defer crypto.EraseEpochs(u.Epochs)
	defer keys.Erase()
	x := &thief{dev: dev, store: &txn.Store{Dev: dev, Keys: keys}, mounts: mounts,
		block: make([]byte, layout.BlockBytes), plain: make([]byte, crypto.RootBytes)}
	roots, _, err := x.store.ReadRoots()
	if err != nil {
		return nil, err
	}
	root := roots[0].Root
	for _, k := range stolen {
		x.k = k
		if u.Header.Verify(k) == nil {
			x.tell("header")
		}
		if err := x.tryRoots(); err != nil {
			return nil, err
		}
		if err := x.tryLog(root); err != nil {
			return nil, err
		}
		if err := eachRecord(x.store, root, x.tryRecord); err != nil {
			return nil, err
		}
	}
	return x.opened, nil
}

// tryRoots tries the key on both copies of every root slot.
func (x *thief) tryRoots() error {
	for slot := range layout.RootSlots {
		for n := range 2 {
			if _, err := x.dev.ReadAt(x.block, layout.RootCopyOff(slot, n)); err != nil {
				return err
			}
			if x.k.OpenRoot(uint8(slot), x.block, x.plain) == nil {
				x.tell("root slot %d, copy %d", slot, n)
			}
		}
	}
	return nil
}

// tryLog tries the key on every frame of the log, as each mount may have numbered it.
func (x *thief) tryLog(root *layout.Root) error {
	for at := range root.LogBlocks {
		if _, err := x.dev.ReadAt(x.block, int64(layout.LogOff+at*layout.BlockBytes)); err != nil {
			return err
		}
		if zeros(x.block) {
			continue
		}
		for _, m := range x.mounts {
			for seq := at; seq < at+4*root.LogBlocks; seq += root.LogBlocks {
				if x.k.OpenFrame(m, seq, x.block, x.plain) == nil {
					x.tell("log frame %d", seq)
				}
			}
		}
	}
	return nil
}

// tryRecord tries the key on each segment of an extent.
func (x *thief) tryRecord(what string, r *layout.Record) error {
	b := make([]byte, r.RunBytes())
	if err := x.store.ReadRun(r, 0, r.Count(), b); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	raw := make([]byte, r.RunBytes())
	if _, err := x.dev.ReadAt(raw, int64(r.Addr)); err != nil {
		return err
	}
	all := *r
	all.Epoch = x.k.Epoch()
	for i := range all.Count() {
		one := all.Slice(i, 1)
		off := int(one.Addr - all.Addr)
		if x.k.OpenSegments(&one.Extent, one.First, 1, b[:one.RunBytes()], raw[off:off+one.RunBytes()], one.Tags) == nil {
			x.tell("%s, epoch %d", what, r.Epoch)
		}
	}
	return nil
}

func zeros(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }

// eachRecord visits every extent that a root reaches.
func eachRecord(store *txn.Store, root *layout.Root, fn func(what string, r *layout.Record) error) error {
	var node func(p *layout.Pointer, tree uint64) error
	node = func(p *layout.Pointer, tree uint64) error {
		if err := fn(fmt.Sprintf("page of tree %d", tree), &p.Record); err != nil {
			return err
		}
		b, err := store.ReadNode(p)
		if err != nil {
			return err
		}
		n, err := layout.DecodeNode(b, tree, p.Level)
		if err != nil {
			return err
		}
		for i := range n.Count() {
			if n.Level() > 0 {
				c, err := layout.GetPointer(n.PointerBytesAt(i), tree)
				if err == nil {
					err = node(&c, tree)
				}
				if err != nil {
					return err
				}
			} else if tree == layout.TreeFS && n.Key(i).Type == layout.KeyExtent {
				e, err := layout.DecodeFileExtent(n.Value(i))
				if err == nil {
					err = fn(fmt.Sprintf("inode %d, block %d", n.Key(i).Obj, n.Key(i).Sub), &e.Record)
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	}
	for id := range root.Trees {
		if p := &root.Trees[id]; !p.IsZero() {
			if err := node(p, uint64(id)); err != nil {
				return err
			}
		}
	}
	for i := range root.FreeLists {
		if p := &root.FreeLists[i]; !p.IsZero() {
			if err := fn("free list", &p.Record); err != nil {
				return err
			}
		}
	}
	return nil
}

func mountOf(v *Volume) [16]byte {
	v.durable.mu.Lock()
	defer v.durable.mu.Unlock()
	return v.durable.root.MountID
}
