package volume

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// maxWrite is the most data in one operation of the ring.
const maxWrite = 1 << 20

// prepareWrite loads the first and last block if a write of [off, end) covers them only partly, and
// inline content.
func (c *contents) prepareWrite(in *inode, off, end uint64) error {
	if err := c.loadSmall(in); err != nil {
		return err
	}
	if off%pageBytes != 0 {
		if err := c.loadPage(in, off/pageBytes); err != nil {
			return err
		}
	}
	if end%pageBytes != 0 && end < in.attr.Size {
		return c.loadPage(in, end/pageBytes)
	}
	return nil
}

// loadSmall loads content that is inline, or may be stored inline by a flusher before the operation
// is applied. unpackInline needs it.
func (c *contents) loadSmall(in *inode) error {
	if in.inlined.Load() || in.attr.Size > 0 && in.attr.Size <= layout.MaxInline {
		return c.loadPage(in, 0)
	}
	return nil
}

// Write implements vfs.FS.
func (v *Volume) Write(req *vfs.Req, ino vfs.Ino, off uint64, data []byte, kill bool) (int, error) {
	if len(data) == 0 {
		return 0, nil
	}
	data = data[:min(len(data), maxWrite)]
	end := off + uint64(len(data))
	if off > layout.MaxFileBytes || end > layout.MaxFileBytes {
		return 0, fmt.Errorf("write at %d: %w", off, vfs.ErrFileTooBig)
	}
	if len(data) > bufferBytes {
		v.sync.letPass()
	}
	in, err := v.table.inode(ino)
	if err != nil {
		return 0, err
	}
	defer v.table.put(in)
	op := &layout.Op{Type: layout.OpWrite, Unique: req.Unique, Ino: uint64(ino), Off: off, Data: data, Len: uint64(len(data)), Time: vfs.Now()}
	if kill {
		op.Flags = layout.OpKill
	}
	if err := v.write(in, op, req.Append); err != nil {
		return 0, err
	}
	return len(data), nil
}

// write executes a write. A write to reserved blocks always finds space, if need be one buffer at a
// time, which is how much the reserve lends at once.
func (v *Volume) write(in *inode, op *layout.Op, appending bool) error {
	promised := false
	err := v.ranges.inReserved(in, func() []items.Interval { return []items.Interval{{From: op.Off, To: op.Off + op.Len}} }, func(p bool) (bool, error) {
		promised = p
		return v.writeOnce(in, op, appending, p)
	})
	if !promised || op.Len <= bufferBytes || !errors.Is(err, vfs.ErrNoSpace) {
		return err
	}
	for at := op.Off; at < op.Off+op.Len; {
		n := min(op.Off+op.Len, (at/bufferBytes+1)*bufferBytes) - at
		part := *op
		part.Off, part.Len, part.Data = at, n, op.Data[at-op.Off:][:n]
		if err := v.write(in, &part, appending); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// writeOnce makes a write that is one operation. promised means that all of it is reserved. If that
// is no longer true, it changes nothing and returns again.
func (v *Volume) writeOnce(in *inode, op *layout.Op, appending, promised bool) (again bool, err error) {
	off, end := op.Off, op.Off+op.Len
	c := reservation{pages: int((end+pageBytes-1)/pageBytes - off/pageBytes + 1), ring: len(op.Data) + 128, nodes: opNodes, promised: promised}
	err = v.operate(c, func(l *locks) error {
		l.lock(in)
		if err := v.regular(in); err != nil {
			return err
		}
		if err := mayWrite(in, off, appending); err != nil {
			return err
		}
		if promised {
			if ok, err := v.ranges.covers(in, off, end); err != nil || !ok {
				again = true
				return err
			}
		}
		if err := v.data.cutRest(in); err != nil {
			return err
		}
		if op.Flags&layout.OpKill != 0 && !killsBits(&in.attr) {
			op.Flags &^= layout.OpKill
		}
		defer v.data.unload(in)
		if err := v.data.prepareWrite(in, off, end); err != nil {
			return err
		}
		return v.perform(op)
	})
	return again, err
}

// regular returns an error if an inode is not a regular file. The caller holds mu.
func (v *Volume) regular(in *inode) error {
	switch {
	case in.dead:
		return fmt.Errorf("inode %d: %w", in.ino, vfs.ErrStale)
	case in.isDir():
		return fmt.Errorf("inode %d: %w", in.ino, vfs.ErrIsDir)
	case !in.isReg():
		return fmt.Errorf("inode %d: %w", in.ino, vfs.ErrInvalid)
	}
	return nil
}

// applyWrite copies the data of a write into the inode's buffers. The caller is in the gate, holds
// in.mu, and has called prepareWrite.
func (v *Volume) applyWrite(in *inode, op *layout.Op) error {
	off, data := op.Off, op.Data
	if op.Flags&layout.OpKill != 0 {
		if err := v.applyKill(in); err != nil {
			return err
		}
	}
	v.data.unpackInline(in, max(in.attr.Size, off+uint64(len(data))))
	for len(data) > 0 {
		idx, in0 := off/bufferBytes, off%bufferBytes
		n := min(bufferBytes-in0, uint64(len(data)))
		v.data.writeBuffer(in, idx, int(in0), data[:n], op.Seq)
		off += n
		data = data[n:]
	}
	in.attr.Mtime, in.attr.Ctime = op.Time, op.Time
	v.table.touch(in)
	return nil
}

// writeBuffer copies data to a buffer at byte from.
func (c *contents) writeBuffer(in *inode, idx uint64, from int, data []byte, seq uint64) {
	v := c.v
	in.bmu.Lock()
	b := c.buffer(in, idx)
	before, had := b.tracked(), b.dirty
	b.src = 0
	if len(data) == bufferBytes {
		b.src = seq
	}
	for n := 0; n < len(data); {
		i, o := (from+n)/pageBytes, (from+n)%pageBytes
		if b.pages[i] == nil {
			b.pages[i] = pagePool.Get().(*page)
			if o != 0 || len(data)-n < pageBytes {
				clear(b.pages[i][:]) // beyond the end of the file: prepareWrite loads everything else
			}
		}
		n += copy(b.pages[i][o:], data[n:])
		b.dirty |= 1 << i
	}
	newBuffer := 0
	if had == 0 {
		newBuffer = 1
	}
	v.adm.dirtyPages(b.tracked()-before, newBuffer)
	// Full, and the last page is complete: otherwise the next append would have to read that page
	// back.
	full := b.dirty == 1<<bufferPages-1 && from+len(data) == bufferBytes
	queue := !b.queued || full && !b.full
	b.queued, b.full = true, full
	in.bmu.Unlock()
	if queue {
		v.flush.pushItem(flushItem{in, idx}, full)
	}
}
