package volume

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/posixacl"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func isStale(err error) bool { return errors.Is(err, vfs.ErrStale) }

// GetAttr implements vfs.FS.
func (v *Volume) GetAttr(ino vfs.Ino) (vfs.Attr, error) {
	in, err := v.table.inode(ino)
	if err != nil {
		return vfs.Attr{}, err
	}
	defer v.table.put(in)
	in.mu.RLock()
	defer in.mu.RUnlock()
	if in.dead {
		return vfs.Attr{}, fmt.Errorf("inode %d: %w", ino, vfs.ErrStale)
	}
	return in.vfsAttr(), nil
}

// peekAttr is GetAttr for listings. It does not add to the inode table.
func (v *Volume) peekAttr(ino vfs.Ino) (vfs.Attr, error) {
	if in := v.table.grab(uint64(ino)); in != nil {
		defer v.table.put(in)
		in.mu.RLock()
		defer in.mu.RUnlock()
		return in.vfsAttr(), nil
	}
	n, err := v.table.readInode(uint64(ino))
	if err != nil {
		if in := v.table.grab(uint64(ino)); in != nil { // created, but not in the tree yet
			v.table.put(in)
			return v.GetAttr(ino)
		}
		return vfs.Attr{}, err
	}
	return vfsAttr(uint64(ino), &n, n.Flags&layout.InodeInline != 0, n.Blocks, n.Vacant, 0), nil
}

// SetAttr implements vfs.FS.
func (v *Volume) SetAttr(req *vfs.Req, ino vfs.Ino, set *vfs.SetAttr) (vfs.Attr, error) {
	if *set == (vfs.SetAttr{}) {
		return v.GetAttr(ino)
	}
	in, err := v.table.inode(ino)
	if err != nil {
		return vfs.Attr{}, err
	}
	defer v.table.put(in)
	var a vfs.Attr
	ends := func() []items.Interval { // SetAttr writes the block that contains the new end
		if set.Size == nil || *set.Size%pageBytes == 0 || *set.Size > layout.MaxFileBytes {
			return nil
		}
		return []items.Interval{{From: *set.Size - 1, To: *set.Size}}
	}
	err = v.ranges.inReserved(in, ends, func(promised bool) (again bool, err error) {
		if promised && set.Size != nil {
			a, again, err = v.setAttr(req, in, set, append([]items.Interval{}, ends()...))
		} else {
			a, _, err = v.setAttr(req, in, set, nil)
		}
		return again, err
	})
	return a, err
}

// setAttr is SetAttr. If reserved is given, the data that it writes is in reserved ranges. If that
// is no longer true, it changes nothing and returns again.
func (v *Volume) setAttr(req *vfs.Req, in *inode, set *vfs.SetAttr, reserved []items.Interval) (a vfs.Attr, again bool, err error) {
	_, dropped := v.data.dropStep()
	c := reservation{ring: 512, nodes: 2*opNodes + dropped, pages: 2, promised: reserved != nil}
	// Truncation to 0 frees space, and must work on a full volume: it may use the reserve.
	c.urgent = set.Size != nil && *set.Size == 0 || set.Size == nil
	if c.urgent {
		c.pages = 0
	}
	err = v.operate(c, func(l *locks) error {
		l.lock(in)
		if in.dead {
			return fmt.Errorf("inode %d: %w", in.ino, vfs.ErrStale)
		}
		if err := mayPut(in, set); err != nil {
			return err
		}
		if reserved != nil {
			if ok, err := v.ranges.coversAll(in, reserved); err != nil || !ok {
				again = true
				return err
			}
		}
		a, err = v.setAttrLocked(req, in, set)
		return err
	})
	return a, again, err
}

// setAttrLocked executes SetAttr with a reservation. The caller holds in.mu.
func (v *Volume) setAttrLocked(req *vfs.Req, in *inode, set *vfs.SetAttr) (vfs.Attr, error) {
	defer v.data.unload(in)
	op := &layout.Op{Type: layout.OpSetAttr, Unique: req.Unique, Ino: in.ino, Time: vfs.Now()}
	if set.Ctime != nil {
		op.Time = *set.Ctime
	}
	if set.Size != nil {
		if err := v.regular(in); err != nil {
			return vfs.Attr{}, err
		}
		if *set.Size > layout.MaxFileBytes {
			return vfs.Attr{}, vfs.ErrFileTooBig
		}
		if err := v.data.cutRest(in); err != nil {
			return vfs.Attr{}, err
		}
		op.Flags |= layout.SetSize
		op.Len = *set.Size
		if err := v.data.prepareTruncate(in, op.Len); err != nil {
			return vfs.Attr{}, err
		}
	}
	if set.Mode != nil {
		op.Flags |= layout.SetMode
		op.Mode = *set.Mode & 0o7777
	}
	if set.UID != nil {
		op.Flags |= layout.SetUID
		op.UID = *set.UID
	}
	if set.GID != nil {
		op.Flags |= layout.SetGID
		op.GID = *set.GID
	}
	if set.Atime != nil {
		op.Flags |= layout.SetAtime
		op.Atime = *set.Atime
	}
	if set.Mtime != nil {
		op.Flags |= layout.SetMtime
		op.Mtime = *set.Mtime
	}
	if op.Atime.Nsec >= 1e9 || op.Mtime.Nsec >= 1e9 || op.Time.Nsec >= 1e9 {
		return vfs.Attr{}, vfs.ErrInvalid
	}
	if set.KillSuidgid {
		op.Flags |= layout.OpKill
	}
	if err := v.perform(op); err != nil {
		return vfs.Attr{}, err
	}
	if op.Flags&layout.SetSize != 0 {
		if err := v.data.cutRest(in); err != nil {
			return vfs.Attr{}, err
		}
	}
	return in.vfsAttr(), nil
}

// prepareTruncate loads the block that contains the new end of the file, and inline content.
func (c *contents) prepareTruncate(in *inode, size uint64) error {
	if err := c.loadSmall(in); err != nil {
		return err
	}
	if size < in.attr.Size && size%pageBytes != 0 {
		return c.loadPage(in, size/pageBytes)
	}
	return nil
}

func (v *Volume) applySetAttr(in *inode, op *layout.Op) error {
	if op.Flags&layout.SetSize != 0 {
		if err := v.applyTruncate(in, op.Len); err != nil {
			return err
		}
		in.attr.Mtime = op.Time
	}
	if op.Flags&layout.SetMode != 0 {
		in.attr.Mode = in.attr.Mode&items.ModeType | op.Mode
		if in.attr.Flags&layout.InodeAccessACL != 0 {
			if err := v.chmodACL(in, op.Mode); err != nil {
				return err
			}
		}
	}
	if op.Flags&layout.SetUID != 0 {
		in.attr.UID = op.UID
	}
	if op.Flags&layout.SetGID != 0 {
		in.attr.GID = op.GID
	}
	if op.Flags&layout.SetAtime != 0 {
		in.attr.Atime = op.Atime
	}
	if op.Flags&layout.SetMtime != 0 {
		in.attr.Mtime = op.Mtime
	}
	if op.Flags&layout.OpKill != 0 {
		if err := v.applyKill(in); err != nil {
			return err
		}
	}
	in.attr.Ctime = op.Time
	v.table.touch(in)
	return nil
}

func (v *Volume) chmodACL(in *inode, mode uint32) error {
	val, err := v.readXattr(in.ino, posixacl.AccessName)
	if err != nil {
		return err
	}
	acl, err := posixacl.Parse(val)
	if err != nil {
		return fmt.Errorf("%w: access ACL of inode %d", layout.ErrCorrupt, in.ino)
	}
	return v.storeXattr(in, posixacl.AccessName, acl.Chmod(mode).Encode())
}

// cutStep is how many extents are removed at a time.
const cutStep = 256

// applyTruncate sets the size. If there are many extents beyond it, an orphan item marks the inode,
// and cutRest removes the rest.
func (v *Volume) applyTruncate(in *inode, size uint64) error {
	old := in.attr.Size
	v.data.unpackInline(in, size)
	v.table.touch(in)
	if size > old || size == old && !in.reserved.Load() {
		return nil
	}
	// Reserved ranges beyond the end are removed even if the size does not change.
	first := (size + pageBytes - 1) / pageBytes
	if err := v.data.cutBuffers(in, first, 1<<62); err != nil {
		return err
	}
	if size < old && size%pageBytes != 0 {
		v.data.zeroPage(in, size/pageBytes, int(size%pageBytes), pageBytes)
	}
	return v.data.cutExtents(in, first)
}

// zeroPage clears bytes [from, to) of a page in memory and makes the page dirty. A page that is not
// in memory stays a hole. Beyond the end, everything is zero already.
func (c *contents) zeroPage(in *inode, block uint64, from, to int) {
	if block*pageBytes >= in.attr.Size {
		return
	}
	in.bmu.Lock()
	b := in.buffers[block/bufferPages]
	if b == nil || b.pages[block%bufferPages] == nil {
		in.bmu.Unlock()
		return
	}
	clear(b.pages[block%bufferPages][from:to])
	in.bmu.Unlock()
	c.markDirty(in, block)
}

// cutExtents removes one step of the extents beyond the end of a truncated file, from a block on.
// If more are left, the inode is an orphan until cutRest has removed them.
func (c *contents) cutExtents(in *inode, from uint64) error {
	v := c.v
	return v.fs.Update(func(w *tree.Writer) error {
		limit, _ := c.dropStep()
		d, err := c.drop(w, in, from, 1<<62, limit)
		if err != nil {
			return err
		}
		c.countDropped(in, d)
		if d.done {
			if d.done, err = v.ranges.unreserve(w, in, from, 1<<62, limit); err != nil || d.done {
				return err
			}
		}
		in.cutting = true
		return w.Put(items.OrphanKey(in.ino), nil)
	})
}

// cutRest removes the rest that applyTruncate left, one step at a time. It runs after the
// truncation. If that was interrupted, it runs before anything that could make the removed data
// visible again. The caller holds in.mu and is not in the gate.
func (c *contents) cutRest(in *inode) error {
	v := c.v
	for in.cutting {
		_, pages := c.dropStep()
		want := reservation{nodes: opNodes + pages, urgent: true, nested: true}
		if err := v.adm.reserve(want); err != nil {
			return err
		}
		err := v.inGate(func() error { return c.cutMore(in) })
		v.adm.done(want)
		if err != nil {
			return err
		}
	}
	return nil
}

// cutMore removes one step of what lies beyond the end of a file.
func (c *contents) cutMore(in *inode) error {
	v := c.v
	first := (in.attr.Size + pageBytes - 1) / pageBytes
	reserved := in.reserved.Load()
	return v.fs.Update(func(w *tree.Writer) error {
		step, _ := c.dropStep()
		d, err := c.drop(w, in, first, 1<<62, step)
		if err != nil {
			return err
		}
		c.countDropped(in, d)
		if d.blocks > 0 || reserved { // most orphans have nothing to cut
			v.table.touch(in)
		}
		if d.done {
			d.done, err = v.ranges.unreserve(w, in, first, 1<<62, step)
		}
		if err != nil || !d.done {
			return err
		}
		in.cutting = false
		if in.attr.Nlink > 0 {
			_, err = w.Delete(items.OrphanKey(in.ino))
		}
		return err
	})
}

// inGate makes a change that is not an operation. It has no record, because replay derives the same
// change.
func (v *Volume) inGate(fn func() error) error {
	v.gate.RLock()
	defer v.gate.RUnlock()
	if err := v.writable(); err != nil {
		return err
	}
	if err := fn(); err != nil {
		err = txn.Wrap(err)
		v.fail(err)
		return err
	}
	v.adm.changed()
	return nil
}

// SeekData implements vfs.FS.
func (v *Volume) SeekData(ino vfs.Ino, off uint64) (uint64, error) { return v.seek(ino, off, true) }

// SeekHole implements vfs.FS.
func (v *Volume) SeekHole(ino vfs.Ino, off uint64) (uint64, error) { return v.seek(ino, off, false) }

func (v *Volume) seek(ino vfs.Ino, off uint64, data bool) (uint64, error) {
	in, err := v.table.inode(ino)
	if err != nil {
		return 0, err
	}
	defer v.table.put(in)
	in.mu.RLock()
	defer in.mu.RUnlock()
	if err := v.regular(in); err != nil {
		return 0, err
	}
	size := in.attr.Size
	if off >= size {
		return 0, vfs.ErrNoData
	}
	if in.inlined.Load() {
		if data {
			return off, nil
		}
		return size, nil
	}
	end := (size + pageBytes - 1) / pageBytes
	s := off / pageBytes
	for s < end {
		from, to, err := v.data.nextData(in, s, end)
		if err != nil {
			return 0, txn.Wrap(err)
		}
		if data {
			if from >= end {
				return 0, vfs.ErrNoData
			}
			return max(off, from*pageBytes), nil
		}
		if from > s {
			return max(off, s*pageBytes), nil
		}
		s = to
	}
	return size, nil // the hole at the end
}

// nextData returns the first run of blocks at or after s that hold data. If there is none, from is
// end. The run may continue after to.
func (c *contents) nextData(in *inode, s, end uint64) (from, to uint64, err error) {
	from, to = end, end
	es, err := c.extents(in.ino, s, end, 1)
	if err != nil {
		return 0, 0, err
	}
	if len(es) > 0 {
		from, to = max(s, es[0].Block), min(end, es[0].End())
	}
	in.bmu.RLock()
	defer in.bmu.RUnlock()
	for idx, b := range in.buffers {
		if (idx+1)*bufferPages <= s || idx*bufferPages >= end {
			continue
		}
		for i, p := range b.pages {
			if x := idx*bufferPages + uint64(i); p != nil && x >= s && x < end && x < from {
				from, to = x, x+1
			}
		}
	}
	return from, to, nil
}

// isFile returns an error if an inode is not a regular file.
func (v *Volume) isFile(ino vfs.Ino) error {
	in, err := v.table.inode(ino)
	if err != nil {
		return err
	}
	defer v.table.put(in)
	in.mu.RLock()
	defer in.mu.RUnlock()
	return v.regular(in)
}
