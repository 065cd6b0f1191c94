package volume

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/posixacl"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// perform executes an operation that was checked: it numbers it, records it in the ring, and
// applies it. The caller holds the locks of everything it changes, has a reservation, and is not in
// the gate.
func (v *Volume) perform(op *layout.Op) error {
	v.gate.RLock()
	defer v.gate.RUnlock()
	if err := v.writable(); err != nil {
		return err
	}
	if err := v.record(op); err != nil {
		return err
	}
	if err := v.apply(op); err != nil {
		// It is recorded, but only partly applied: the state in memory must not be committed.
		err = txn.Wrap(fmt.Errorf("operation %d of type %d: %w", op.Seq, op.Type, err))
		v.fail(err)
		return err
	}
	return nil
}

// record appends an operation to the ring.
func (v *Volume) record(op *layout.Op) error {
	n := 192 + len(op.Name) + len(op.Name2) + len(op.Data) + len(op.Data2)
	err := v.ring.Append(n, func(b []byte) []byte {
		op.Seq = v.nextOp
		v.nextOp++
		return layout.AppendOp(b, op)
	})
	if err != nil {
		return fmt.Errorf("%w: %w", vfs.ErrIO, err) // admission has reserved the room
	}
	v.adm.changed()
	// At half a ring, there is enough time for a commit to end before writers must wait.
	if v.ring.Head()-v.com.ringMark.Load() > uint64(v.ring.Size()/2) {
		v.com.ask()
	}
	return nil
}

// apply applies a recorded operation, at execution (the caller holds inode.mu of all inodes that
// change) or in replay (nobody else uses the volume). An error means damage, a failing device, or
// in replay a log that does not match its root.
func (v *Volume) apply(op *layout.Op) error {
	switch op.Type {
	case layout.OpCreate:
		return v.applyCreate(op)
	case layout.OpLink:
		return v.applyLink(op)
	case layout.OpUnlink:
		return v.applyUnlink(op)
	case layout.OpRename:
		return v.applyRename(op)
	case layout.OpGrow:
		return v.applyGrow(op.Len)
	}
	in, err := v.table.inode(vfs.Ino(op.Ino))
	if err != nil {
		return err
	}
	defer v.table.put(in)
	switch op.Type {
	case layout.OpSetAttr:
		return v.applySetAttr(in, op)
	case layout.OpWrite:
		return v.applyWrite(in, op)
	case layout.OpWriteRef:
		return v.applyWriteRef(in, op)
	case layout.OpFallocate:
		return v.applyFallocate(in, op)
	case layout.OpCopyRange:
		return v.applyCopyRange(in, op)
	case layout.OpSetXattr, layout.OpRemoveXattr:
		return v.applyXattr(in, op)
	case layout.OpSetFlags:
		v.applyFlags(in, op)
		return nil
	}
	return fmt.Errorf("%w: unexpected operation type %d", layout.ErrCorrupt, op.Type)
}

func (v *Volume) applyCreate(op *layout.Op) error {
	attr := layout.Inode{Mode: op.Mode, Nlink: 1, UID: op.UID, GID: op.GID, Rdev: op.Rdev,
		Atime: op.Time, Mtime: op.Time, Ctime: op.Time, Btime: op.Time}
	dir := op.Mode&items.ModeType == items.ModeDir
	if dir {
		attr.Nlink, attr.Parent = 2, op.Parent
	}
	if op.Mode&items.ModeType == items.ModeLink {
		attr.Size = uint64(len(op.Name2))
	}
	if op.Name == "" {
		attr.Nlink = 0
	}
	var err error
	if attr.Flags, err = v.inheritFlags(op.Parent); err != nil {
		return err
	}
	in := newInode(op.Ino, attr)
	v.table.add(in)
	defer v.table.put(in)
	v.com.inos.mu.Lock()
	v.com.inos.next = max(v.com.inos.next, op.Ino+1)
	v.com.inos.inodes++
	v.com.inos.mu.Unlock()
	err = v.fs.Update(func(w *tree.Writer) error {
		if op.Name == "" {
			v.background.reaper.orphaned(op.Ino)
			return w.Put(items.OrphanKey(op.Ino), nil)
		}
		if err := v.names.put(w, op.Parent, op.Name, in); err != nil {
			return err
		}
		if op.Mode&items.ModeType == items.ModeLink {
			return w.Put(items.InlineKey(op.Ino), []byte(op.Name2))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(op.Data2) > 0 {
		if err := v.storeXattr(in, posixacl.AccessName, op.Data2); err != nil {
			return err
		}
	}
	if len(op.Data) > 0 {
		if err := v.storeXattr(in, posixacl.DefaultName, op.Data); err != nil {
			return err
		}
	}
	v.table.touch(in)
	if op.Name == "" {
		return nil
	}
	links := 0
	if dir {
		links = 1
	}
	return v.changeDir(op.Parent, 1, links, op.Time)
}

// changeDir updates a directory after names in it changed.
func (v *Volume) changeDir(ino uint64, names, links int, t vfs.Timespec) error {
	p, err := v.table.inode(vfs.Ino(ino))
	if err != nil {
		return err
	}
	defer v.table.put(p)
	p.setSize(uint64(int64(p.attr.Size) + int64(names)))
	p.attr.Nlink = uint32(int(p.attr.Nlink) + links)
	p.attr.Mtime, p.attr.Ctime = t, t
	v.table.touch(p)
	return nil
}

func (v *Volume) applyLink(op *layout.Op) error {
	in, err := v.table.inode(vfs.Ino(op.Ino))
	if err != nil {
		return err
	}
	defer v.table.put(in)
	first := in.attr.Nlink == 0
	err = v.fs.Update(func(w *tree.Writer) error {
		if first && !in.cutting { // an O_TMPFILE inode gets its name
			if _, err := w.Delete(items.OrphanKey(in.ino)); err != nil {
				return err
			}
		}
		return v.names.put(w, op.Parent, op.Name, in)
	})
	if err != nil {
		return err
	}
	in.attr.Nlink++
	in.attr.Ctime = op.Time
	v.table.touch(in)
	return v.changeDir(op.Parent, 1, 0, op.Time)
}

func (v *Volume) applyUnlink(op *layout.Op) error {
	in, err := v.table.inode(vfs.Ino(op.Ino))
	if err != nil {
		return err
	}
	defer v.table.put(in)
	links := 0
	if in.isDir() {
		links = -1
	}
	err = v.fs.Update(func(w *tree.Writer) error {
		if err := v.names.delete(w, op.Parent, op.Name); err != nil {
			return err
		}
		return v.dropLink(w, in, op.Time)
	})
	if err != nil {
		return err
	}
	return v.changeDir(op.Parent, -1, links, op.Time)
}

// dropLink removes one name of an inode. Without names, the inode becomes an orphan.
func (v *Volume) dropLink(w *tree.Writer, in *inode, t vfs.Timespec) error {
	if in.isDir() {
		in.attr.Nlink = 0
	} else {
		in.attr.Nlink--
	}
	in.attr.Ctime = t
	v.table.touch(in)
	if in.attr.Nlink > 0 {
		return nil
	}
	v.background.reaper.orphaned(in.ino)
	return w.Put(items.OrphanKey(in.ino), nil)
}

func (v *Volume) applyRename(op *layout.Op) error {
	moved, err := v.table.inode(vfs.Ino(op.Ino))
	if err != nil {
		return err
	}
	defer v.table.put(moved)
	var target *inode // replaced or exchanged
	_, there, err := v.names.hash.FindName(v.fs.Scan, op.Parent2, op.Name2)
	if err != nil {
		return err
	}
	if there.Ino != 0 {
		if target, err = v.table.inode(vfs.Ino(there.Ino)); err != nil {
			return err
		}
		defer v.table.put(target)
	}
	var from, to dirChange
	err = v.fs.Update(func(w *tree.Writer) error {
		if op.Flags&vfs.RenameExchange != 0 {
			from, to, err = v.exchangeNames(w, op, moved, target)
		} else {
			from, to, err = v.moveName(w, op, moved, target)
		}
		return err
	})
	if err != nil {
		return err
	}
	if op.Flags&vfs.RenameWhiteout != 0 { // a character device 0:0 takes the old place
		wh := &layout.Op{Ino: op.Ino2, Parent: op.Parent, Name: op.Name, Mode: 0o020000, UID: op.UID, GID: op.GID, Time: op.Time}
		if err := v.inheritWhiteout(wh); err != nil {
			return err
		}
		if err := v.applyCreate(wh); err != nil {
			return err
		}
	}
	if op.Parent == op.Parent2 {
		return v.changeDir(op.Parent, from.names+to.names, from.links+to.links, op.Time)
	}
	if err := v.changeDir(op.Parent, from.names, from.links, op.Time); err != nil {
		return err
	}
	return v.changeDir(op.Parent2, to.names, to.links, op.Time)
}

// dirChange is the change of a directory's counts by a rename.
type dirChange struct{ names, links int }

// linkOf is the number of links that an inode (may be nil) adds to its directory.
func linkOf(in *inode) int {
	if in != nil && in.isDir() {
		return 1
	}
	return 0
}

// exchangeNames swaps the names of two inodes.
func (v *Volume) exchangeNames(w *tree.Writer, op *layout.Op, moved, target *inode) (from, to dirChange, err error) {
	if target == nil {
		return from, to, fmt.Errorf("%w: the name to exchange with does not exist", layout.ErrCorrupt)
	}
	if err := v.names.set(w, op.Parent, op.Name, target); err != nil {
		return from, to, err
	}
	if err := v.names.set(w, op.Parent2, op.Name2, moved); err != nil {
		return from, to, err
	}
	from.links = linkOf(target) - linkOf(moved)
	to.links = -from.links
	v.moved(target, op.Time)
	v.moved(moved, op.Time)
	return from, to, nil
}

// moveName gives an inode another name. If target exists, it loses that name.
func (v *Volume) moveName(w *tree.Writer, op *layout.Op, moved, target *inode) (from, to dirChange, err error) {
	if target != nil {
		if err := v.names.delete(w, op.Parent2, op.Name2); err != nil {
			return from, to, err
		}
		if err := v.dropLink(w, target, op.Time); err != nil {
			return from, to, err
		}
		to.names--
		to.links -= linkOf(target)
	}
	if err := v.names.delete(w, op.Parent, op.Name); err != nil {
		return from, to, err
	}
	if err := v.names.put(w, op.Parent2, op.Name2, moved); err != nil {
		return from, to, err
	}
	from.names--
	to.names++
	from.links -= linkOf(moved)
	to.links += linkOf(moved)
	v.moved(moved, op.Time)
	return from, to, nil
}

// inheritWhiteout sets the flags that a whiteout inherits from its directory. Replay derives the
// same, so the record of the rename does not contain them.
func (v *Volume) inheritWhiteout(op *layout.Op) error {
	p, err := v.table.inode(vfs.Ino(op.Parent))
	if err != nil {
		return err
	}
	defer v.table.put(p)
	if p.attr.Mode&items.ModeSgid != 0 {
		op.GID = p.attr.GID
	}
	op.Mode, op.Data, op.Data2, err = v.names.inherit(p, &vfs.Req{}, op.Mode)
	return err
}

// moved updates an inode that got another name.
func (v *Volume) moved(in *inode, t vfs.Timespec) {
	in.attr.Ctime = t
	v.table.touch(in)
}

// applyKill changes the mode as a write or chown by an unprivileged user does.
func (v *Volume) applyKill(in *inode) error {
	if in.isDir() {
		return nil
	}
	in.attr.Mode &^= items.ModeSuid
	if in.attr.Mode&0o010 != 0 {
		in.attr.Mode &^= items.ModeSgid
	}
	v.table.touch(in)
	if in.attr.Flags&layout.InodeCapability == 0 {
		return nil
	}
	return v.storeXattr(in, items.CapabilityName, nil)
}

// killsBits reports whether applyKill would change anything.
func killsBits(n *layout.Inode) bool {
	return n.Mode&items.ModeSuid != 0 || n.Mode&(items.ModeSgid|0o010) == items.ModeSgid|0o010 || n.Flags&layout.InodeCapability != 0
}
