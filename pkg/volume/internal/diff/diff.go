package diff

import (
	"bytes"
	"context"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Kind is the kind of change of a path between two states of a volume.
type Kind int

// Kinds of changes.
const (
	Created  Kind = iota + 1 // the inode is new
	Removed                  // the inode has no name any more
	Renamed                  // from OldPath
	Linked                   // another name of an inode that existed before
	Unlinked                 // one of several names of an inode was removed
	Modified                 // content
	Changed                  // attributes only
)

func (k Kind) String() string {
	return [...]string{"", "created", "removed", "renamed", "linked", "unlinked", "modified", "changed"}[k]
}

// ByteRange is the bytes [Off, Off+Len) of a file.
type ByteRange struct{ Off, Len uint64 }

// Change is one difference that Snapshots finds. A new inode is not reported as modified in
// addition.
type Change struct {
	Kind    Kind
	Ino     vfs.Ino
	Type    uint32 // S_IFMT bits
	Path    string // absolute; the old path, for Removed and Unlinked
	OldPath string // Renamed only
	// Ranges of content that may differ (Modified, with Options.Ranges), in whole blocks except at
	// the end of the file. A file with many ranges has several consecutive changes.
	Ranges []ByteRange
}

// Options configures Snapshots.
type Options struct {
	Ranges bool // report which bytes of files were modified
}

// changeRanges is the most ranges of one Change.
const changeRanges = 512

// Snapshots compares two snapshots. Nobody may delete them meanwhile. It calls fn for each change,
// in no particular order. If fn returns an error, Snapshots stops and returns it. Ending ctx stops
// it, too.
func Snapshots(ctx context.Context, cache *tree.Cache, from, to *layout.Snapshot, opts Options, fn func(Change) error) error {
	d := &differ{ctx: ctx, opts: opts, fn: fn, a: newSide(cache, from), b: newSide(cache, to)}
	err := tree.Diff(cache, from.Tree, to.Tree, d.item)
	if err == nil {
		err = d.endInode()
	}
	if err == nil {
		err = d.search()
	}
	return err
}

// differ compares two states.
type differ struct {
	ctx  context.Context // ends when the volume is closed
	opts Options
	fn   func(Change) error
	a, b *side
	in   diffInode
	lost []Change // changes whose path is not known yet
}

// diffInode is the inode whose items are compared.
type diffInode struct {
	ino            uint64
	attrs, content bool
	names          bool
	ranges         rangeMerger
	out            []ByteRange
}

func (d *differ) item(k layout.Key, a, b []byte) error {
	if d.ctx.Err() != nil {
		return context.Cause(d.ctx)
	}
	if k.Obj == 0 {
		return nil
	}
	if k.Obj != d.in.ino {
		if err := d.endInode(); err != nil {
			return err
		}
		d.in = diffInode{ino: k.Obj}
	}
	in := &d.in
	switch k.Type {
	case layout.KeyInode:
		in.attrs = true
	case layout.KeyInline:
		in.content = true
		if d.opts.Ranges {
			return d.addRange(ByteRange{0, uint64(max(len(a), len(b)))})
		}
	case layout.KeyXattr:
		in.attrs = true
	case layout.KeyName:
		in.names = true
		return d.name(k, a, b)
	case layout.KeyExtent:
		if n := len(a) - layout.FileExtentBytes; a != nil && b != nil && len(a) == len(b) && bytes.Equal(a[:n], b[:n]) {
			break // that the inode changed is all that is needed
		}
		in.content = true
		if d.opts.Ranges {
			return d.extent(k.Sub, a, b)
		}
	}
	return nil
}

// inodes returns an inode on both sides, nil where it does not exist.
func (d *differ) inodes(ino uint64) (a, b *layout.Inode, err error) {
	if a, err = d.a.get(ino); err == nil {
		b, err = d.b.get(ino)
	}
	return a, b, err
}

// endInode reports the changes of an inode that exists on both sides.
func (d *differ) endInode() error {
	in := &d.in
	if in.ino == 0 {
		return nil
	}
	if err := in.ranges.until(^uint64(0), d.addRange); err != nil {
		return err
	}
	a, b, err := d.inodes(in.ino)
	if err != nil || a == nil || b == nil || a.Nlink == 0 || b.Nlink == 0 {
		return err // created or removed: its names are reported
	}
	dir := b.Mode&items.ModeType == items.ModeDir
	if !dir && a.Size != b.Size {
		in.content = true
		if d.opts.Ranges {
			if err := d.addRange(ByteRange{min(a.Size, b.Size), max(a.Size, b.Size) - min(a.Size, b.Size)}); err != nil {
				return err
			}
		}
	}
	if n := len(in.out); n > 0 { // the last block reaches beyond the end
		last := &in.out[n-1]
		last.Len = min(last.Len, max(a.Size, b.Size, last.Off)-last.Off)
	}
	switch {
	case in.content:
		return d.tell(Modified)
	case in.attrs && !onlyNames(a, b, in.names):
		return d.tell(Changed)
	}
	return nil
}

// onlyNames reports whether attributes differ only as a change of names makes them differ: those of
// the inode itself, or, with names, those of a directory whose names changed.
func onlyNames(a, b *layout.Inode, names bool) bool {
	x, y := *a, *b
	x.Ctime, x.Parent, x.NameSub, x.Nlink = y.Ctime, y.Parent, y.NameSub, y.Nlink
	moved := a.Parent != b.Parent || a.NameSub != b.NameSub || a.Nlink != b.Nlink
	if names && a.Mode&items.ModeType == items.ModeDir {
		x.Mtime, x.Size = y.Mtime, y.Size
		moved = true
	}
	return moved && x == y
}

// tell reports a change of the inode under its name.
func (d *differ) tell(kind Kind) error {
	_, b, err := d.inodes(d.in.ino)
	if err != nil || b == nil || b.Nlink == 0 {
		return err
	}
	c := Change{Kind: kind, Ino: vfs.Ino(d.in.ino), Type: b.Mode & items.ModeType, Ranges: d.in.out}
	if d.in.ino == uint64(vfs.RootIno) {
		c.Path = "/"
		return d.fn(c)
	}
	if b.Mode&items.ModeType == items.ModeDir {
		if c.Path, err = d.b.dirPath(d.in.ino); err != nil {
			return err
		}
		return d.fn(c)
	}
	n, ok, err := d.b.nameAt(b.Parent, b.NameSub)
	if err != nil {
		return err
	}
	if ok && n.Ino == d.in.ino {
		if c.Path, err = d.b.join(b.Parent, n.Name); err != nil {
			return err
		}
		return d.fn(c)
	}
	// The recorded name is gone, but another one is left.
	if d.lost = append(d.lost, c); len(d.lost) >= changeRanges {
		return d.search()
	}
	return nil
}
