package volume

import (
	"context"
	"fmt"
	"math"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// userFlags are the inode flags that users set, and their bits in the inode.
var userFlags = []struct{ fs, inode uint32 }{
	{vfs.FlagImmutable, layout.InodeImmutable},
	{vfs.FlagAppend, layout.InodeAppend},
	{vfs.FlagNodump, layout.InodeNodump},
	{vfs.FlagNoatime, layout.InodeNoatime},
}

// Flags implements vfs.Flagger.
func (v *Volume) Flags(ino vfs.Ino) (flags uint32, err error) {
	in, err := v.table.inode(ino)
	if err != nil {
		return 0, err
	}
	defer v.table.put(in)
	in.mu.RLock()
	defer in.mu.RUnlock()
	for _, f := range userFlags {
		if in.attr.Flags&f.inode != 0 {
			flags |= f.fs
		}
	}
	return flags, nil
}

// SetFlags implements vfs.Flagger. The first flag sets a feature bit in the header, because earlier
// versions would write to immutable files. That bit covers the four flags of userFlags: a fifth flag
// needs an incompat bit of its own, and another range of flags in docs/format.md.
func (v *Volume) SetFlags(req *vfs.Req, ino vfs.Ino, flags uint32) error {
	want, rest := uint32(0), flags
	for _, f := range userFlags {
		if flags&f.fs != 0 {
			want |= f.inode
		}
		rest &^= f.fs
	}
	if rest != 0 {
		return fmt.Errorf("flags %#x: %w", rest, vfs.ErrNotSupported)
	}
	if want != 0 {
		if err := v.keys.requireFeature(layout.FeatureFlags); err != nil {
			return err
		}
	}
	return v.operate(reservation{ring: 256, nodes: opNodes, urgent: true}, func(l *locks) error {
		in, err := l.inode(ino)
		if err != nil {
			return err
		}
		l.lock(in)
		switch {
		case in.dead:
			return fmt.Errorf("inode %d: %w", ino, vfs.ErrStale)
		case !in.isDir() && !in.isReg():
			return fmt.Errorf("flags of inode %d: %w", ino, vfs.ErrNotSupported)
		case in.attr.Flags&layout.InodeUserFlags == want:
			return nil
		}
		return v.perform(&layout.Op{Type: layout.OpSetFlags, Unique: req.Unique, Ino: in.ino, Flags: want, Time: vfs.Now()})
	})
}

func (v *Volume) applyFlags(in *inode, op *layout.Op) {
	in.attr.Flags = in.attr.Flags&^layout.InodeUserFlags | op.Flags
	in.attr.Ctime = op.Time
	v.table.touch(in)
}

// inheritFlags returns the flags that a new inode inherits from its directory. Replay derives the
// same.
func (v *Volume) inheritFlags(dir uint64) (uint32, error) {
	p, err := v.table.inode(vfs.Ino(dir))
	if err != nil {
		return 0, err
	}
	defer v.table.put(p)
	return p.attr.Flags & layout.InodeInherited, nil
}

// Effects of the flags, as in the kernel's VFS and ext4. Callers hold inode.mu of all inodes that
// are checked. In a FUSE mount, the kernel does not know the flags.

func forbidden(in *inode, flags uint32) error {
	if in.attr.Flags&flags != 0 {
		return fmt.Errorf("inode %d is immutable or append-only: %w", in.ino, vfs.ErrNotPermitted)
	}
	return nil
}

// fixed checks for changes that both flags forbid: removing a name from the directory, or of the
// file, linking it, changing attributes.
func fixed(in *inode) error { return forbidden(in, layout.InodeImmutable|layout.InodeAppend) }

// mayAdd checks whether a directory may get a new name.
func mayAdd(dir *inode) error { return forbidden(dir, layout.InodeImmutable) }

func mayWrite(in *inode, off uint64, appending bool) error {
	if in.attr.Flags&layout.InodeAppend != 0 && (!appending || off < in.attr.Size) {
		return fixed(in)
	}
	return forbidden(in, layout.InodeImmutable)
}

// mayAllocate checks fallocate: an append-only file may get space, and grow by it, but no holes.
func mayAllocate(in *inode, mode uint32) error {
	if mode&^vfs.FallocKeepSize != 0 {
		return fixed(in)
	}
	return forbidden(in, layout.InodeImmutable)
}

// mayPut checks SetAttr. An append-only file may be touched, and loses suid and sgid.
func mayPut(in *inode, set *vfs.SetAttr) error {
	if set.Mode != nil || set.UID != nil || set.GID != nil || set.Size != nil || !set.Touch && (set.Atime != nil || set.Mtime != nil) {
		return fixed(in)
	}
	return forbidden(in, layout.InodeImmutable)
}

// mayRename checks a rename of moved from directory p to q. target, if not nil, loses its name or
// moves to p.
func mayRename(p, q, moved, target *inode) error {
	for _, in := range []*inode{p, moved} {
		if err := fixed(in); err != nil {
			return err
		}
	}
	if target == nil {
		return mayAdd(q)
	}
	if err := fixed(q); err != nil {
		return err
	}
	return fixed(target)
}

// TrimRange implements vfs.Trimmer.
func (v *Volume) TrimRange(ctx context.Context, off, length, shortest uint64) (uint64, error) {
	const most = math.MaxInt64
	switch size := v.blocks.Load() * layout.BlockBytes; {
	case off >= size || length < layout.BlockBytes:
		return 0, vfs.ErrInvalid
	case length > size-off:
		length = size - off
	}
	return v.Trim(ctx, TrimOptions{Offset: int64(off), Length: int64(length), MinLength: int64(min(shortest, most-layout.BlockBytes))})
}
