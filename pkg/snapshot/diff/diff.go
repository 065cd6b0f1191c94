package diff

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/snapshot/merkle"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"golang.org/x/sys/unix"
)

// ErrUnrelated means that the snapshots are of volumes that have nothing to do with each other.
var ErrUnrelated = errors.New("the snapshots are of different volumes")

// Options configures Snapshots.
type Options struct {
	Ranges bool // report which bytes of files were modified
}

// changeRanges is the most ranges of one change.
const changeRanges = 512

// Snapshots compares snapshot b with snapshot a. It calls fn for each change, in no particular order.
// If fn returns an error, Snapshots stops and returns it. ErrUnrelated.
func Snapshots(ctx context.Context, a, b Source, o Options, fn func(volume.Change) error) error {
	if a.Seed != b.Seed {
		return ErrUnrelated
	}
	d := &differ{ctx: ctx, o: o, fn: fn, a: newSide(a), b: newSide(b)}
	for x, err := range merkle.Diff(ctx, a.Map, b.Map) {
		if err == nil {
			err = d.fact(&x)
		}
		if err != nil {
			return err
		}
	}
	if err := d.endInode(); err != nil {
		return err
	}
	return d.search()
}

// differ compares two snapshots.
type differ struct {
	ctx  context.Context //nolint:containedctx // it lives for one call only
	o    Options
	fn   func(volume.Change) error
	a, b *side
	in   inode
	lost []volume.Change // changes whose path is not known yet
}

// inode is the inode whose facts are compared.
type inode struct {
	ino            uint64
	attrs, content bool
	names          bool
	ranges         []volume.ByteRange
}

// fact compares one fact.
func (d *differ) fact(x *merkle.Difference) error {
	if x.Key.Ino != d.in.ino {
		if err := d.endInode(); err != nil {
			return err
		}
		d.in = inode{ino: x.Key.Ino}
	}
	in := &d.in
	switch x.Key.Type {
	case logical.InodeType, logical.XattrType:
		in.attrs = true
	case logical.InlineType:
		in.content = true
		return d.addRange(volume.ByteRange{Len: uint64(max(len(x.Old), len(x.New)))})
	case logical.NameType:
		in.names = true
		return d.name(x)
	case logical.DataType:
		in.content = true
		return d.data(x)
	}
	return nil
}

// data compares the content of a larger file.
func (d *differ) data(x *merkle.Difference) error {
	if !d.o.Ranges {
		return nil
	}
	var objects [2]*selfenc.PackedObject
	for i, v := range [][]byte{x.Old, x.New} {
		if v == nil {
			continue
		}
		o, err := fact.DecodeData(v)
		if err != nil {
			return fmt.Errorf("inode %d: %w", x.Key.Ino, err)
		}
		objects[i] = &o
	}
	switch {
	case objects[0] == nil:
		return d.dataOf(d.b, objects[1])
	case objects[1] == nil:
		return d.dataOf(d.a, objects[0])
	}
	return d.b.Sealer.DiffObjectsOf(d.ctx, d.a.Sealer, objects[0], objects[1], func(r selfenc.Range) error {
		return d.addRange(volume.ByteRange{Off: r.Off, Len: r.Len})
	})
}

// dataOf reports all of a file that is no hole: the other side has zeros there, or small content.
func (d *differ) dataOf(s *side, o *selfenc.PackedObject) error {
	return s.Sealer.Refs(d.ctx, o, 0, func(i int64, _ *selfenc.PackedRef) error {
		off := uint64(i) * uint64(o.ChunkBytes)
		return d.addRange(volume.ByteRange{Off: off, Len: min(uint64(o.ChunkBytes), uint64(o.Bytes)-off)})
	})
}

// inodes returns an inode on both sides, nil where it does not exist.
func (d *differ) inodes(ino uint64) (a, b *logical.Inode, err error) {
	if a, err = d.a.inode(d.ctx, ino); err == nil {
		b, err = d.b.inode(d.ctx, ino)
	}
	return a, b, err
}

// endInode reports the changes of an inode that exists on both sides.
func (d *differ) endInode() error {
	in := &d.in
	if in.ino == 0 {
		return nil
	}
	a, b, err := d.inodes(in.ino)
	if err != nil || a == nil || b == nil {
		return err // created or removed: its names are reported
	}
	if !b.IsDir() && a.Size != b.Size {
		in.content = true
		least := min(a.Size, b.Size)
		if err := d.addRange(volume.ByteRange{Off: least, Len: max(a.Size, b.Size) - least}); err != nil {
			return err
		}
	}
	switch {
	case in.content:
		return d.tell(volume.Modified)
	case in.attrs && !onlyNames(a, b, in.names):
		return d.tell(volume.Changed)
	}
	return nil
}

// onlyNames reports whether attributes differ only as a change of names makes them differ: those of
// the inode itself, or, with names, those of a directory whose names changed.
func onlyNames(a, b *logical.Inode, names bool) bool {
	x, y := *a, *b
	x.Ctime, x.Parent, x.NameSub, x.Nlink = y.Ctime, y.Parent, y.NameSub, y.Nlink
	moved := a.Parent != b.Parent || a.NameSub != b.NameSub || a.Nlink != b.Nlink
	if names && a.IsDir() {
		x.Mtime, x.Size = y.Mtime, y.Size
		moved = true
	}
	return moved && x == y
}

// tell reports a change of the inode under its name.
func (d *differ) tell(kind volume.ChangeKind) error {
	b, err := d.b.inode(d.ctx, d.in.ino)
	if err != nil || b == nil {
		return err
	}
	c := volume.Change{Kind: kind, Ino: vfs.Ino(d.in.ino), Type: b.Mode & unix.S_IFMT, Ranges: d.in.ranges}
	if d.in.ino == uint64(vfs.RootIno) || b.IsDir() {
		if c.Path, err = d.b.dirPath(d.ctx, d.in.ino); err != nil {
			return err
		}
		return d.fn(c)
	}
	n, err := d.b.nameAt(d.ctx, b.Parent, b.NameSub)
	if err != nil {
		return err
	}
	if n.Ino == d.in.ino {
		if c.Path, err = d.b.join(d.ctx, b.Parent, n.Name); err != nil {
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

// addRange adds a range of the inode, after those before it. When there are many, it reports them.
func (d *differ) addRange(r volume.ByteRange) error {
	in := &d.in
	if !d.o.Ranges || r.Len == 0 {
		return nil
	}
	for n := len(in.ranges); n > 0 && in.ranges[n-1].Off+in.ranges[n-1].Len >= r.Off; n-- {
		last := in.ranges[n-1]
		end := max(last.Off+last.Len, r.Off+r.Len)
		r.Off = min(r.Off, last.Off)
		r.Len, in.ranges = end-r.Off, in.ranges[:n-1]
	}
	if len(in.ranges) == changeRanges {
		if err := d.tell(volume.Modified); err != nil {
			return err
		}
		in.ranges = nil
	}
	in.ranges = append(in.ranges, r)
	return nil
}
