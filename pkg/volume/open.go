package volume

import (
	"fmt"
	"slices"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/probe"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// FormatOptions configures Format.
type FormatOptions struct {
	Recipient crypto.Recipient   // gets slot 0
	Extra     []crypto.Recipient // slots 1…: recovery key, passphrase
	Suite     crypto.Suite       // 0: the default
	Force     bool               // format a device that is not empty
	SizeBytes int64              // use only this much of the device; 0: all
	RootMode  uint32             // of the root directory; 0: 0755
	RootUID   uint32
	RootGID   uint32

	load *LoadOptions // the volume is restored: its content, with the root directory, comes later
}

// Format makes a new volume. All data on the device is lost.
func Format(dev device.Device, opts FormatOptions) error {
	if opts.Suite == 0 {
		opts.Suite = crypto.SuiteXChaCha20Poly1305
	}
	size, err := formatSize(dev, &opts)
	if err != nil {
		return err
	}
	h, keys, err := newHeader(&opts)
	if err != nil {
		return err
	}
	head, err := layout.EncodeHeader(h, keys)
	if err != nil {
		return err
	}
	// First, no part of an old volume may look like the new one: erase both headers and all roots.
	// Then write the new roots, and the headers last. An interruption leaves no volume rather than
	// half of one.
	zero := device.AlignedBytes(layout.HeaderBytes + layout.RootArrayBytes)
	for _, off := range []int64{layout.HeaderOffsetA, layout.HeaderOffsetB} {
		if _, err := dev.WriteAt(zero, off); err != nil {
			return fmt.Errorf("%w: write at %d: %w", vfs.ErrIO, off, err)
		}
	}
	if err := dev.Sync(); err != nil {
		return fmt.Errorf("%w: flush: %w", vfs.ErrIO, err)
	}
	if err := firstRoots(dev, &opts, h, keys, size); err != nil {
		return err
	}
	for _, off := range []int64{layout.HeaderOffsetB, layout.HeaderOffsetA} {
		if _, err := dev.WriteAt(head, off); err != nil {
			return fmt.Errorf("%w: write header: %w", vfs.ErrIO, err)
		}
		if err := dev.Sync(); err != nil {
			return fmt.Errorf("%w: flush: %w", vfs.ErrIO, err)
		}
	}
	return nil
}

// formatSize returns the size of the new volume, or an error if the device must not be formatted.
func formatSize(dev device.Device, opts *FormatOptions) (size int64, err error) {
	if size, err = dev.Size(); err != nil {
		return 0, err
	}
	if opts.SizeBytes != 0 {
		if opts.SizeBytes > size {
			return 0, fmt.Errorf("%w: %d bytes requested, but the device has %d", ErrTooSmall, opts.SizeBytes, size)
		}
		size = opts.SizeBytes
	}
	if size < layout.MinDevice {
		return 0, fmt.Errorf("%w: it has %d bytes, at least %d are needed", ErrTooSmall, size, layout.MinDevice)
	}
	if opts.Force {
		return size, nil
	}
	what, err := probe.Find(dev)
	if err != nil {
		return 0, err
	}
	if what != "" {
		return 0, fmt.Errorf("%w: it holds %s; use --force to overwrite it", ErrNotEmpty, what)
	}
	return size, nil
}

// newHeader makes the header of a new volume, with its data key in a slot for each recipient.
func newHeader(opts *FormatOptions) (*layout.Header, *crypto.EpochKeys, error) {
	id := crypto.NewUUID()
	vmk, err := crypto.GenerateKey()
	if err != nil {
		return nil, nil, err
	}
	epochs := []crypto.EpochKey{{Epoch: 1, VMK: vmk}}
	defer crypto.EraseEpochs(epochs)
	keys, err := crypto.DeriveEpochKeys(opts.Suite, id, 1, vmk)
	if err != nil {
		return nil, nil, err
	}
	h := &layout.Header{ID: id, Suite: opts.Suite, Sequence: 1}
	if opts.load != nil {
		h.Incompat = layout.FeatureRestoring
	}
	for i, r := range append([]crypto.Recipient{opts.Recipient}, opts.Extra...) {
		if i >= crypto.Slots {
			return nil, nil, fmt.Errorf("more than %d keys", crypto.Slots)
		}
		if h.Slots[i], err = crypto.NewSlot(opts.Suite, id, uint8(i), r, epochs); err != nil {
			return nil, nil, fmt.Errorf("key slot %d: %w", i, err)
		}
	}
	return h, keys, nil
}

// firstRoots commits a volume with an empty root directory. It erases the keys.
func firstRoots(dev device.Device, opts *FormatOptions, h *layout.Header, keys *crypto.EpochKeys, size int64) error {
	root := &layout.Root{
		Instance: h.ID, HeaderSeq: 1, OpSeq: 1, NextIno: uint64(vfs.RootIno) + 1, Inodes: 1,
		DeviceBlocks: uint64(size) / layout.BlockBytes, LogBlocks: uint64(layout.LogBytes(size)) / layout.BlockBytes,
		MountID: randomBytes[[16]byte](), HashSeed: randomBytes[[16]byte](),
	}
	root.FreeBlocks = root.DeviceBlocks - root.DataStart()
	if o := opts.load; o != nil {
		root.HashSeed, root.NextIno, root.Inodes = o.HashSeed, o.NextIno, 0
	}
	v, err := newVolume(dev, Options{}, &layout.Unlocked{Header: h}, txn.NewKeys(keys), root, 1)
	if err != nil {
		return err
	}
	defer v.store.Keys.Erase()
	if opts.load != nil {
		err = v.storePosition(nil)
	} else {
		v.makeRoot(opts)
	}
	if err != nil {
		return txn.Wrap(err)
	}
	// Two roots, so that one damaged slot does not leave the volume without a root.
	for range 2 {
		if err := v.com.commit(true); err != nil {
			return txn.Wrap(err)
		}
	}
	return nil
}

// makeRoot makes the root directory of a new volume.
func (v *Volume) makeRoot(opts *FormatOptions) {
	now := vfs.Now()
	mode := opts.RootMode & 0o7777
	if mode == 0 {
		mode = 0o755
	}
	in := newInode(uint64(vfs.RootIno), layout.Inode{Mode: items.ModeDir | mode, Nlink: 2, UID: opts.RootUID, GID: opts.RootGID,
		Parent: uint64(vfs.RootIno), Atime: now, Mtime: now, Ctime: now, Btime: now})
	v.table.add(in)
	v.table.touch(in)
}

// Open opens the volume on a device: it reads the newest root and replays the log. With ReadOnly,
// it writes nothing, and replays the log in memory.
func Open(dev device.Device, opts Options) (*Volume, error) {
	u, keys, err := header.Unlock(dev, opts.Credential, opts.Anchor)
	if err != nil {
		return nil, err
	}
	v, err := open(dev, opts, u, keys)
	if err != nil {
		keys.Erase()
		crypto.EraseEpochs(u.Epochs)
		return nil, txn.Wrap(err)
	}
	return v, nil
}

func open(dev device.Device, opts Options, u *layout.Unlocked, keys *txn.Keys) (*Volume, error) {
	store := &txn.Store{Dev: dev, Keys: keys}
	if !opts.ReadOnly {
		if err := u.CheckWritable(); err != nil {
			return nil, err
		}
		// A killed predecessor may have written a root that is only in the device's cache. It is
		// read as durable, so it must become durable before anything is built on it.
		if err := store.Sync(); err != nil {
			return nil, err
		}
	}
	found, bad, err := header.NewestRoot(dev, store, u)
	if err != nil {
		return nil, err
	}
	root := found[0].Root
	rp := &txn.Replay{}
	if !root.Clean {
		if rp, err = store.ReadLog(root); err != nil {
			return nil, err
		}
	}
	end, err := findEnd(store, root, rp)
	if err != nil {
		return nil, err
	}
	v, err := newVolume(dev, opts, u, keys, root, end.gen)
	if err != nil {
		return nil, err
	}
	v.durable.r, v.life.replayed = found[0].R, end.ops
	if len(bad) > 0 && opts.Log != nil {
		opts.Log.Warn("root slots do not verify: a write was cut, or the device is damaged", "volume", u.ID.String(), "slots", bad, "generation", root.Generation)
	}
	if err := v.checkNextIno(); err != nil {
		return nil, err
	}
	if err := v.anc.load(root); err != nil {
		return nil, err
	}
	instance, err := opts.instance(root.Instance, u.ID)
	if err != nil {
		return nil, err
	}
	if err := v.load(root); err != nil {
		return nil, err
	}
	if err := (&replayer{v}).run(root, rp, end); err != nil {
		return nil, err
	}
	if opts.ReadOnly {
		return v, nil
	}
	if u.Other != nil {
		if err := v.keys.repairHeader(u); err != nil {
			return nil, err
		}
	}
	if err := v.beginMount(found, instance); err != nil {
		return nil, err
	}
	return v, nil
}

// load reads what memory must hold of the newest root's content. Nobody else uses the volume yet.
func (v *Volume) load(root *layout.Root) error {
	if err := v.rot.load(root); err != nil {
		return err
	}
	if err := v.loadLists(root); err != nil {
		return err
	}
	if err := v.snap.load(); err != nil {
		return fmt.Errorf("snapshots: %w", err)
	}
	return nil
}

// beginMount commits the start of a new mount, and starts read-write service.
func (v *Volume) beginMount(found []txn.FoundRoot, instance crypto.UUID) error {
	// A new mount ID comes before the first frame, in two roots. So one damaged slot cannot make
	// frames of this mount unreadable, and thus unnoticed.
	mount := randomBytes[[16]byte]()
	next := *v.durable.root
	next.MountID, next.MountEpoch = mount, next.MountEpoch+1
	next.LogSeq = 0
	next.Instance = instance
	v.durable.mu.Lock()
	v.durable.root = &next
	v.durable.mu.Unlock()
	if err := v.dropPosition(); err != nil {
		return err
	}
	for range 2 {
		if err := v.com.commit(false); err != nil {
			return err
		}
	}
	v.mendRoots(found)
	if err := v.start(mount); err != nil {
		return err
	}
	if v.rot.target.Load() != 0 {
		v.rot.start()
	}
	return nil
}

// checkNextIno refuses a root whose next inode number would overwrite existing inodes. If the last
// page cannot be read, the check is skipped, because the others may still be readable.
func (v *Volume) checkNextIno() error {
	if v.opts.ReadOnly {
		return nil
	}
	var last layout.Key
	end := layout.Key{Obj: ^uint64(0), Type: 0xff, Sub: ^uint64(0)}
	err := v.fs.ScanFloor(layout.Key{}, end, end, func(k layout.Key, _ []byte) bool {
		last = k
		return false
	})
	if err == nil && (v.com.inos.next <= uint64(vfs.RootIno) || last.Obj >= v.com.inos.next) {
		return fmt.Errorf("%w: the next inode number is %d, but items of inode %d exist", layout.ErrCorrupt, v.com.inos.next, last.Obj)
	}
	return nil
}

// instance returns the instance that a device becomes. now is its current instance, id the volume's
// UUID. After Format, both are equal.
func (o *Options) instance(now, id crypto.UUID) (crypto.UUID, error) {
	switch {
	case o.Instance == crypto.UUID{}:
		return now, nil
	case !o.Own || now == o.Instance:
		return o.Instance, nil
	case now != id:
		return now, fmt.Errorf("%w: it was last mounted as instance %v, not as %v", ErrCopy, now, o.Instance)
	case o.Anchor != nil:
		return now, nil
	}
	return o.Instance, nil
}

// mendRoots rewrites copies of older roots that were damaged when the volume was opened. The two
// commits since then have overwritten what an interruption left.
func (v *Volume) mendRoots(found []txn.FoundRoot) {
	if !slices.ContainsFunc(found, func(f txn.FoundRoot) bool { return f.Copies != [layout.RootCopies]txn.CopyState{} }) {
		return
	}
	rep := v.store.MendRoots(true)
	for i := range rep.Mended {
		m := &rep.Mended[i]
		if v.opts.Log != nil && (m.Was() != txn.CopyBlank || m.Err != nil) {
			v.opts.Log.Warn("a copy of a root was damaged and is rewritten from the other one", "volume", v.ID().String(),
				"slot", m.Slot, "copy", m.Copy, "was", m.Was().String(), "error", m.Err)
		}
	}
}

// listMemory is the divisor of the mount's memory that bounds each of the two free lists. One
// generation frees little more than maxFreed runs. Earlier versions, whose replay did not commit,
// may have left more.
const listMemory = 4

// loadLists reads the free lists of a root into Space (I3).
func (v *Volume) loadLists(root *layout.Root) error {
	for i := range root.FreeLists {
		p := &root.FreeLists[i]
		if p.IsZero() {
			continue
		}
		runs, pieces, err := v.store.ReadFreeList(p, txn.DataArea(root), v.opts.Memory/listMemory)
		if err != nil {
			return err
		}
		if err := v.space.AddList(root.Generation-uint64(i), runs); err != nil {
			return err
		}
		v.com.lists[i] = listPlace{ptr: *p, pieces: pieces}
	}
	if v.opts.ReadOnly {
		return nil
	}
	return v.space.Reuse(root.Generation - 1)
}
