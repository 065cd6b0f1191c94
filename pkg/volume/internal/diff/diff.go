package diff

import (
	"bytes"
	"context"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Kind is what happened to a path between two states of a volume.
type Kind int

// Kinds of changes.
const (
	Created  Kind = iota + 1 // the inode is new
	Removed                  // the inode has no name any more
	Renamed                  // from OldPath
	Linked                   // one more name of an inode that was there
	Unlinked                 // one name less of an inode that is still there
	Modified                 // content
	Changed                  // attributes only
)

func (k Kind) String() string {
	return [...]string{"", "created", "removed", "renamed", "linked", "unlinked", "modified", "changed"}[k]
}

// ByteRange is bytes [Off, Off+Len) of a file.
type ByteRange struct{ Off, Len uint64 }

// Change is one of the differences that Snapshots finds. What is new is not reported
// as modified as well.
type Change struct {
	Kind    Kind
	Ino     vfs.Ino
	Type    uint32 // S_IFMT bits
	Path    string // absolute; where it was, for what was removed or unlinked
	OldPath string // Renamed only
	// Ranges of content that may differ (Modified, with Options.Ranges), in
	// whole blocks but for the end of the file. A file with many has several
	// changes that follow one another.
	Ranges []ByteRange
}

// Options for Snapshots.
type Options struct {
	Ranges bool // tell which bytes of files were modified
}

// changeRanges is how many ranges one Change has.
const changeRanges = 512

// Snapshots compares two snapshots that nobody deletes meanwhile. It calls fn for one
// change after another, in no order that means anything, until fn returns an error, which is
// returned. ctx ends it.
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
	lost []Change // of which the path is not known yet
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
			break // only whose it is changed
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

// endInode reports what became of an inode that both sides have.
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
		return err // created or removed: its names say so
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
	if n := len(in.out); n > 0 { // the last block goes beyond the end
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

// onlyNames tells whether attributes differ only as they do when names change:
// those of the inode itself, or, with names, those in a directory.
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
	// The name that it remembers is gone, another one is left.
	if d.lost = append(d.lost, c); len(d.lost) >= changeRanges {
		return d.search()
	}
	return nil
}
