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
	store := &txn.Store{Dev: dev, Keys: keys}
	roots, _, err := store.ReadRoots()
	if err != nil {
		return nil, err
	}
	tell := func(format string, args ...any) { opened = append(opened, fmt.Sprintf(format, args...)) }
	block, plain := make([]byte, layout.BlockBytes), make([]byte, crypto.RootBytes)
	for _, k := range stolen {
		for _, h := range []*layout.Header{u.Header} {
			if h.Verify(k) == nil {
				tell("header")
			}
		}
		for slot := range layout.RootSlots {
			for n := range 2 {
				if _, err := dev.ReadAt(block, layout.RootCopyOff(slot, n)); err != nil {
					return nil, err
				}
				if k.OpenRoot(uint8(slot), block, plain) == nil {
					tell("root slot %d, copy %d", slot, n)
				}
			}
		}
		root := roots[0].Root
		for at := range root.LogBlocks {
			if _, err := dev.ReadAt(block, int64(layout.LogOff+at*layout.BlockBytes)); err != nil {
				return nil, err
			}
			if zeros(block) {
				continue
			}
			for _, m := range mounts {
				for seq := at; seq < at+4*root.LogBlocks; seq += root.LogBlocks {
					if k.OpenFrame(m, seq, block, plain) == nil {
						tell("log frame %d", seq)
					}
				}
			}
		}
		try := func(what string, r *layout.Record) error {
			b := make([]byte, r.RunBytes())
			if err := store.ReadRun(r, 0, r.Count(), b); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			raw := make([]byte, r.RunBytes())
			if _, err := dev.ReadAt(raw, int64(r.Addr)); err != nil {
				return err
			}
			x := *r
			x.Epoch = k.Epoch()
			for i := range x.Count() {
				one := x.Slice(i, 1)
				off := int(one.Addr - x.Addr)
				if k.OpenSegments(&one.Extent, one.First, 1, b[:one.RunBytes()], raw[off:off+one.RunBytes()], one.Tags) == nil {
					tell("%s, epoch %d", what, r.Epoch)
				}
			}
			return nil
		}
		if err := eachRecord(store, root, try); err != nil {
			return nil, err
		}
	}
	return opened, nil
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
