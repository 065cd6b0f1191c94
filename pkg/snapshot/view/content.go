package view

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// file is the content of a regular file.
type file struct {
	size   uint64
	inline []byte                // of a small one
	object *selfenc.PackedObject // of a larger one; nil: all zeros
}

func (v *View) file(ino vfs.Ino) (*file, error) {
	n, err := v.inode(ino)
	if err != nil {
		return nil, err
	}
	switch {
	case n.IsDir():
		return nil, vfs.ErrIsDir
	case !n.IsRegular():
		return nil, vfs.ErrInvalid
	}
	f := &file{size: n.Size}
	if n.Size <= logical.MaxInline {
		if f.inline, err = v.get(logical.Key{Ino: uint64(ino), Type: logical.InlineType}); err != nil {
			return nil, err
		}
		if f.inline != nil && uint64(len(f.inline)) != n.Size {
			return nil, fmt.Errorf("%w: inode %d: a file of %d bytes has %d", vfs.ErrCorrupt, ino, n.Size, len(f.inline))
		}
		return f, nil
	}
	b, err := v.get(logical.Key{Ino: uint64(ino), Type: logical.DataType})
	if err != nil || b == nil {
		return f, err
	}
	o, err := fact.DecodeData(b)
	if err == nil && uint64(o.Bytes) != n.Size {
		err = fmt.Errorf("%w: a file of %d bytes has %d", selfenc.ErrMap, n.Size, o.Bytes)
	}
	if err != nil {
		return nil, fail(fmt.Errorf("inode %d: %w", ino, err))
	}
	f.object = &o
	return f, nil
}

// Read implements vfs.Reader.
func (v *View) Read(ino vfs.Ino, off uint64, dst []byte) (int, error) {
	f, err := v.file(ino)
	if err != nil || off >= f.size {
		return 0, err
	}
	dst = dst[:min(uint64(len(dst)), f.size-off)]
	if f.object == nil {
		clear(dst)
		if off < uint64(len(f.inline)) {
			copy(dst, f.inline[off:])
		}
		return len(dst), nil
	}
	n, err := v.read(ino, f.object, dst, off)
	if err != nil {
		return n, fail(fmt.Errorf("inode %d: content at %d: %w", ino, off, err))
	}
	return n, nil
}

// SeekData implements vfs.Reader. Holes are whole chunks.
func (v *View) SeekData(ino vfs.Ino, off uint64) (uint64, error) { return v.seek(ino, off, true) }

// SeekHole implements vfs.Reader. Holes are whole chunks.
func (v *View) SeekHole(ino vfs.Ino, off uint64) (uint64, error) { return v.seek(ino, off, false) }

func (v *View) seek(ino vfs.Ino, off uint64, data bool) (uint64, error) {
	f, err := v.file(ino)
	if err != nil {
		return 0, err
	}
	if off >= f.size {
		return 0, vfs.ErrNoData
	}
	if f.object == nil {
		switch {
		case data && f.inline != nil:
			return off, nil
		case data:
			return 0, vfs.ErrNoData
		case f.inline != nil:
			return f.size, nil
		}
		return off, nil
	}
	at, err := v.seekObject(f, off, data)
	if err != nil {
		return 0, fail(fmt.Errorf("inode %d: %w", ino, err))
	}
	if data && at >= f.size {
		return 0, vfs.ErrNoData
	}
	return min(max(at, off), f.size), nil
}

func (v *View) read(ino vfs.Ino, o *selfenc.PackedObject, dst []byte, off uint64) (int, error) {
	r, err := v.readers.get(ino, func() (*selfenc.Reader, error) { return v.src.Sealer.Reader(o) })
	if err != nil {
		return 0, err
	}
	return r.ReadRange(v.ctx, dst, int64(off))
}

// seekObject finds the first chunk from off on that is data, or that is a hole.
func (v *View) seekObject(f *file, off uint64, data bool) (at uint64, err error) {
	chunk := uint64(f.object.ChunkBytes)
	seek := v.src.Sealer.NextHole
	if data {
		seek = v.src.Sealer.NextData
	}
	next, err := seek(v.ctx, f.object, int64(off/chunk))
	if err != nil || next == f.object.Chunks() {
		return f.size, err
	}
	return uint64(next) * chunk, nil
}
