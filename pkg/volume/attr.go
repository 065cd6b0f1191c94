package volume

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/posixacl"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func isStale(err error) bool { return errors.Is(err, vfs.ErrStale) }

// GetAttr implements vfs.FS.
func (v *Volume) GetAttr(ino vfs.Ino) (vfs.Attr, error) {
	in, err := v.inode(ino)
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

// peekAttr is GetAttr for listings: it leaves the table as it is.
func (v *Volume) peekAttr(ino vfs.Ino) (vfs.Attr, error) {
	if in := v.table.grab(uint64(ino)); in != nil {
		defer v.table.put(in)
		in.mu.RLock()
		defer in.mu.RUnlock()
		return in.vfsAttr(), nil
	}
	n, err := v.readInode(uint64(ino))
	if err != nil {
		if in := v.table.grab(uint64(ino)); in != nil { // created and not in the tree yet
			v.table.put(in)
			return v.GetAttr(ino)
		}
		return vfs.Attr{}, err
	}
	return vfsAttr(uint64(ino), &n, n.Flags&layout.InodeInline != 0, n.Sectors, 0), nil
}

// SetAttr implements vfs.FS.
func (v *Volume) SetAttr(req *vfs.Req, ino vfs.Ino, set *vfs.SetAttr) (vfs.Attr, error) {
	if *set == (vfs.SetAttr{}) {
		return v.GetAttr(ino)
	}
	_, dropped := v.dropStep()
	c := cost{ring: 512, quads: 2*opQuads + dropped, pages: 2}
	// Cutting a file frees space, and needs the reserve when the volume is full.
	c.urgent = set.Size != nil && *set.Size == 0 || set.Size == nil
	if c.urgent {
		c.pages = 0
	}
	if err := v.admit(c); err != nil {
		return vfs.Attr{}, err
	}
	defer v.adm.done(c)
	in, err := v.inode(ino)
	if err != nil {
		return vfs.Attr{}, err
	}
	defer v.table.put(in)
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.dead {
		return vfs.Attr{}, fmt.Errorf("inode %d: %w", ino, vfs.ErrStale)
	}
	if err := mayPut(in, set); err != nil {
		return vfs.Attr{}, err
	}
	defer v.unload(in)
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
		if err := v.cutRest(in); err != nil {
			return vfs.Attr{}, err
		}
		op.Flags |= layout.SetSize
		op.Len = *set.Size
		if err := v.prepareTruncate(in, op.Len); err != nil {
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
		if err := v.cutRest(in); err != nil {
			return vfs.Attr{}, err
		}
	}
	return in.vfsAttr(), nil
}

// prepareTruncate loads the sector that the new end of the file cuts in two,
// and an inline content.
func (v *Volume) prepareTruncate(in *inode, size uint64) error {
	if err := v.loadSmall(in); err != nil {
		return err
	}
	if size < in.attr.Size && size%pageBytes != 0 {
		return v.loadPage(in, size/pageBytes)
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
		in.attr.Mode = in.attr.Mode&modeType | op.Mode
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
	v.touch(in)
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

// applyTruncate sets the size. Extents beyond it, when there are many, are
// left to cutRest: an orphan item says so.
func (v *Volume) applyTruncate(in *inode, size uint64) error {
	old := in.attr.Size
	v.unpackInline(in, size)
	v.touch(in)
	if size >= old {
		return nil
	}
	first := (size + pageBytes - 1) / pageBytes
	if err := v.cutBlocks(in, first, 1<<62); err != nil {
		return err
	}
	if size%pageBytes != 0 {
		v.zeroPage(in, size/pageBytes, int(size%pageBytes), pageBytes)
	}
	return v.cutExtents(in, first, 1<<62)
}

// zeroPage clears bytes [from, to) of a page in memory and makes it dirty; a
// page that is not there stays a hole, and beyond the end all is zero already.
func (v *Volume) zeroPage(in *inode, sector uint64, from, to int) {
	if sector*pageBytes >= in.attr.Size {
		return
	}
	in.bmu.Lock()
	b := in.blocks[sector/blockPages]
	if b == nil || b.pages[sector%blockPages] == nil {
		in.bmu.Unlock()
		return
	}
	clear(b.pages[sector%blockPages][from:to])
	in.bmu.Unlock()
	v.markDirty(in, sector)
}

// cutExtents removes a step of the extents in [from, to) sectors. If more are
// left, the inode becomes an orphan until cutRest is done with it; that is for
// truncation only, where everything beyond the size goes.
func (v *Volume) cutExtents(in *inode, from, to uint64) error {
	return v.fs.Update(func(w *tree.Writer) error {
		limit, _ := v.dropStep()
		if to < 1<<62 {
			limit = 0 // a hole: bounded by the caller
		}
		freed, done, err := v.dropExtents(w, in.ino, from, to, limit)
		if err != nil {
			return err
		}
		in.bmu.Lock()
		in.sectors -= min(in.sectors, freed)
		in.bmu.Unlock()
		if done {
			return nil
		}
		in.cutting = true
		return w.Put(orphanKey(in.ino), nil)
	})
}

// cutRest goes on with what applyTruncate has left, a step at a time: after the
// truncation, and, should that have failed, before anything else could bring
// what is to be cut back into sight. The caller holds in.mu and is not in the gate.
func (v *Volume) cutRest(in *inode) error {
	for in.cutting {
		_, pages := v.dropStep()
		c := cost{quads: opQuads + pages, urgent: true, nested: true}
		if err := v.admit(c); err != nil {
			return err
		}
		err := v.inGate(func() error { return v.cutMore(in) })
		v.adm.done(c)
		if err != nil {
			return err
		}
	}
	return nil
}

// cutMore removes a step of what lies beyond the end of a file.
func (v *Volume) cutMore(in *inode) error {
	first := (in.attr.Size + pageBytes - 1) / pageBytes
	return v.fs.Update(func(w *tree.Writer) error {
		step, _ := v.dropStep()
		freed, done, err := v.dropExtents(w, in.ino, first, 1<<62, step)
		if err != nil {
			return err
		}
		in.bmu.Lock()
		in.sectors -= min(in.sectors, freed)
		in.bmu.Unlock()
		v.touch(in)
		if !done {
			return nil
		}
		in.cutting = false
		if in.attr.Nlink > 0 {
			_, err = w.Delete(orphanKey(in.ino))
		}
		return err
	})
}

// inGate runs a change that is not an operation of its own: it has no record,
// because replay would come to the same.
func (v *Volume) inGate(fn func() error) error {
	v.gate.RLock()
	defer v.gate.RUnlock()
	if err := v.writable(); err != nil {
		return err
	}
	if err := fn(); err != nil {
		err = wrap(err)
		v.fail(err)
		return err
	}
	v.adm.changed()
	return nil
}

// Fallocate implements vfs.FS. Space is not set aside: sealed data goes to new
// places anyway. Without FallocPunchHole or FallocZeroRange it fails if the
// volume could not hold the range now, and extends the file.
func (v *Volume) Fallocate(req *vfs.Req, ino vfs.Ino, mode uint32, off, length uint64) error {
	if err := v.isFile(ino); err != nil {
		return err
	}
	punch, zero := mode&vfs.FallocPunchHole != 0, mode&vfs.FallocZeroRange != 0
	switch {
	case length == 0:
		return vfs.ErrInvalid
	case off > layout.MaxFileBytes || length > layout.MaxFileBytes-off:
		return vfs.ErrFileTooBig
	case mode&^(vfs.FallocKeepSize|vfs.FallocPunchHole|vfs.FallocZeroRange) != 0 || punch && zero:
		return vfs.ErrNotSupported
	case punch && mode&vfs.FallocKeepSize == 0:
		return vfs.ErrNotSupported
	}
	_, dropped := v.dropStep()
	c := cost{ring: 256, quads: opQuads + dropped, pages: 2}
	if err := v.admit(c); err != nil {
		return err
	}
	defer v.adm.done(c)
	in, err := v.inode(ino)
	if err != nil {
		return err
	}
	defer v.table.put(in)
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := v.regular(in); err != nil {
		return err
	}
	if err := mayAllocate(in, mode); err != nil {
		return err
	}
	if err := v.cutRest(in); err != nil {
		return err
	}
	if !punch && !zero && int64((length+pageBytes-1)/pageBytes) > v.available() {
		return vfs.ErrNoSpace
	}
	defer v.unload(in)
	end := off + length
	if punch || zero {
		if err := v.prepareWrite(in, off, end); err != nil {
			return err
		}
	} else if err := v.loadSmall(in); err != nil {
		return err
	}
	// A long hole is made in pieces, each an operation: between them the file
	// is as if the call had been made for less.
	for off < end {
		n := end - off
		if punch || zero {
			stop, err := v.holeStep(in, off, end)
			if err != nil {
				return err
			}
			n = stop - off
		}
		op := &layout.Op{Type: layout.OpFallocate, Unique: req.Unique, Ino: in.ino, Time: vfs.Now(), Flags: mode, Off: off, Len: n}
		if err := v.perform(op); err != nil {
			return err
		}
		if off += n; off < end {
			more := cost{ring: 256, quads: opQuads + dropped, urgent: true, nested: true}
			if err := v.admit(more); err != nil {
				return err
			}
			v.adm.done(more)
		}
	}
	return nil
}

// holeStep returns where a hole from off has to stop so that it removes no
// more extents than are dropped at a time.
func (v *Volume) holeStep(in *inode, off, end uint64) (uint64, error) {
	step, _ := v.dropStep()
	es, err := v.extents(in.ino, off/pageBytes, (end+pageBytes-1)/pageBytes, step)
	if err != nil {
		return 0, wrap(err)
	}
	if len(es) < step {
		return end, nil
	}
	return min(end, max(off+pageBytes, es[len(es)-1].end()*pageBytes)), nil
}

func (v *Volume) applyFallocate(in *inode, op *layout.Op) error {
	end := op.Off + op.Len
	size := in.attr.Size
	if op.Flags&vfs.FallocKeepSize == 0 {
		size = max(size, end)
	}
	v.unpackInline(in, size)
	if op.Flags&(vfs.FallocPunchHole|vfs.FallocZeroRange) != 0 {
		if err := v.punch(in, op.Off, end); err != nil {
			return err
		}
	}
	in.attr.Mtime, in.attr.Ctime = op.Time, op.Time
	v.touch(in)
	return nil
}

// punch makes [off, end) a hole; the sectors at both ends are in memory where
// they keep something.
func (v *Volume) punch(in *inode, off, end uint64) error {
	a, b := (off+pageBytes-1)/pageBytes, end/pageBytes // whole sectors
	if end >= in.attr.Size {
		b = max(b, (in.attr.Size+pageBytes-1)/pageBytes)
	}
	if off/pageBytes == end/pageBytes && off%pageBytes != 0 {
		v.zeroPage(in, off/pageBytes, int(off%pageBytes), int(end%pageBytes))
		return nil
	}
	if off%pageBytes != 0 {
		v.zeroPage(in, off/pageBytes, int(off%pageBytes), pageBytes)
	}
	if end%pageBytes != 0 && end/pageBytes >= b {
		v.zeroPage(in, end/pageBytes, 0, int(end%pageBytes))
	}
	if a >= b {
		return nil
	}
	if err := v.cutBlocks(in, a, b); err != nil {
		return err
	}
	return v.cutExtents(in, a, b)
}

// SeekData implements vfs.FS.
func (v *Volume) SeekData(ino vfs.Ino, off uint64) (uint64, error) { return v.seek(ino, off, true) }

// SeekHole implements vfs.FS.
func (v *Volume) SeekHole(ino vfs.Ino, off uint64) (uint64, error) { return v.seek(ino, off, false) }

func (v *Volume) seek(ino vfs.Ino, off uint64, data bool) (uint64, error) {
	in, err := v.inode(ino)
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
		from, to, err := v.nextData(in, s, end)
		if err != nil {
			return 0, wrap(err)
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

// nextData returns the first run of sectors at or after s that hold data: from
// is end if there is none. The run may go on after to.
func (v *Volume) nextData(in *inode, s, end uint64) (from, to uint64, err error) {
	from, to = end, end
	es, err := v.extents(in.ino, s, end, 1)
	if err != nil {
		return 0, 0, err
	}
	if len(es) > 0 {
		from, to = max(s, es[0].sector), min(end, es[0].end())
	}
	in.bmu.RLock()
	defer in.bmu.RUnlock()
	for idx, b := range in.blocks {
		if (idx+1)*blockPages <= s || idx*blockPages >= end {
			continue
		}
		for i, p := range b.pages {
			if x := idx*blockPages + uint64(i); p != nil && x >= s && x < end && x < from {
				from, to = x, x+1
			}
		}
	}
	return from, to, nil
}

// isFile tells whether an inode holds data.
func (v *Volume) isFile(ino vfs.Ino) error {
	in, err := v.inode(ino)
	if err != nil {
		return err
	}
	defer v.table.put(in)
	in.mu.RLock()
	defer in.mu.RUnlock()
	return v.regular(in)
}
