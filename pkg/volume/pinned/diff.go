package pinned

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// Visitor is told the facts that differ, in the order of their keys. What it gets it may keep. A
// fact that it is told may be the same as before. An error ends Diff.
type Visitor interface {
	// Inode tells the attributes of an inode. nil: the inode is gone, with all of its facts, for
	// which no other call is made.
	Inode(ino uint64, n *logical.Inode) error
	// Inline tells the content of a small file or the target of a symlink. nil: it is gone.
	Inline(ino uint64, b []byte) error
	// Xattr tells an extended attribute. nil: it is gone.
	Xattr(ino, sub uint64, x *logical.Xattr) error
	// Name tells a name in a directory. nil: it is gone.
	Name(dir, sub uint64, n *logical.Name) error
	// Data tells that the content or the size of a larger file differs.
	Data(d *DataChange) error
}

// DataChange is a difference of the content of a file that is larger than logical.MaxInline.
type DataChange struct {
	Ino  uint64
	Size uint64 // now; 0 if Gone
	// OldSize is the size of the content before. 0: it was no data fact, so Dirty is all that is not
	// zeros.
	OldSize uint64
	Gone    bool // there is no data fact any more: the file is small now, or no file
	// Dirty yields the ranges that may differ, ascending and apart from each other, in whole blocks
	// except at the end. Both states count as followed by zeros: so a range that is a hole in both
	// is not dirty, even if the file has grown over it. No range reaches beyond both sizes.
	//
	// The ranges are found while they are asked for. Dirty can be used once, during the call of Data
	// alone, by one goroutine at a time, and it need not be used up. After an error, which is the
	// last that it yields, Diff fails, too.
	Dirty iter.Seq2[logical.Range, error]
}

// readAhead is how many pages of metadata Diff reads ahead in each state.
const readAhead = 16

// Diff tells v what differs between two states of one volume. from nil is a volume without any
// inode. The cost depends on the metadata pages that differ; those that hold nothing but the content
// of a file that is gone are not read. v may read both states meanwhile.
func Diff(ctx context.Context, from, to *State, v Visitor) error {
	var a layout.Pointer
	if from != nil {
		if from.v.identity.ID != to.v.identity.ID {
			return fmt.Errorf("compare states: %w: %v and %v", ErrOtherVolume, from.v.identity.ID, to.v.identity.ID)
		}
		a = from.root
	}
	d := &differ{ctx: ctx, from: from, to: to, v: v}
	d.src.pages = tree.NewDiffer(to.v.cache, a, to.root, readAhead)
	defer d.src.pages.Close()
	err := d.run()
	var damage *readError
	if !errors.As(err, &damage) {
		return err // of the visitor, or the context's
	}
	err = fmt.Errorf("inode %d or behind it: %w", d.ino, damage.err)
	if from == nil {
		return to.fail(err)
	}
	if err := from.fail(err); errors.Is(err, ErrDeleted) {
		return err
	}
	return to.fail(fmt.Errorf("compared with snapshot %q: %w", from.ref.Name, err))
}

// readError is an error of reading a state, not of the visitor.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

func reading(err error) error {
	if err == nil {
		return nil
	}
	return &readError{err}
}

// differ compares two states, inode by inode.
type differ struct {
	ctx      context.Context
	from, to *State // from may be nil
	v        Visitor
	src      source
	ino      uint64 // the inode that is compared
}

func (d *differ) run() error {
	for {
		if err := d.ctx.Err(); err != nil {
			return context.Cause(d.ctx)
		}
		x, ok, err := d.src.peek()
		if err != nil || !ok {
			return err
		}
		d.ino = x.Key.Obj
		if d.ino != 0 { // 0: lists of inodes to be freed and of reserved ranges
			if err := d.inode(x); err != nil {
				return err
			}
		}
		if d.ino == ^uint64(0) {
			return nil
		}
		d.src.skipTo(layout.Key{Obj: d.ino + 1})
	}
}

// pair returns the inode of the first item that differs, on both sides. An inode without a name
// does not exist; orphan means that it is one on the side of from.
func (d *differ) pair(x *tree.Different) (a, b *layout.Inode, orphan bool, err error) {
	if x.Key.Type != layout.KeyInode { // it is the same on both sides
		if b, err = d.to.inode(d.ino); d.from != nil {
			a = b
		}
		return a, b, false, err
	}
	for i, val := range [2][]byte{x.A, x.B} {
		if val == nil {
			continue
		}
		n, err := layout.DecodeInode(val)
		switch {
		case err != nil:
			return nil, nil, false, err
		case n.Nlink == 0:
			orphan = orphan || i == 0
		case i == 0:
			a = &n
		default:
			b = &n
		}
	}
	return a, b, orphan, nil
}

// inode compares the inode of the first item that differs.
func (d *differ) inode(x *tree.Different) error {
	a, b, orphan, err := d.pair(x)
	switch {
	case err != nil:
		return reading(err)
	case a == nil && b == nil:
		return nil
	case b == nil:
		return d.v.Inode(d.ino, nil)
	case a == nil && orphan:
		// It got a name. Its other items may be the same on both sides, but they are new facts.
		return d.compare(&source{scan: newScan(d.to, layout.Key{Obj: d.ino})}, nil, b)
	}
	return d.compare(&d.src, a, b)
}

// compare tells the differences of an inode that exists in to. a is nil if it does not exist in
// from; then src has all of its items.
func (d *differ) compare(src *source, a, b *layout.Inode) error {
	if err := d.attributes(a, b); err != nil {
		return err
	}
	if err := d.inline(a, b); err != nil {
		return err
	}
	for {
		x, ok, err := src.peekOf(d.ino)
		switch {
		case err != nil:
			return err
		case !ok:
			return d.data(src, a, b)
		}
		switch x.Key.Type {
		case layout.KeyXattr:
			err = d.xattr(src, x)
		case layout.KeyName:
			src.advance()
			err = d.name(x)
		case layout.KeyExtent:
			return d.data(src, a, b)
		case layout.KeyInode, layout.KeyInline, layout.KeyReserved: // done, done, and no fact
			src.advance()
		default:
			return reading(fmt.Errorf("%w: item %v of unknown type", layout.ErrCorrupt, x.Key))
		}
		if err == nil && d.ctx.Err() != nil {
			err = context.Cause(d.ctx)
		}
		if err != nil {
			return err
		}
	}
}

func (d *differ) attributes(a, b *layout.Inode) error {
	now, err := inodeFact(d.ino, b)
	if err != nil {
		return reading(err)
	}
	if a != nil {
		was, err := inodeFact(d.ino, a)
		if err != nil {
			return reading(err)
		}
		if was == now {
			return nil
		}
	}
	return d.v.Inode(d.ino, &now)
}

func (d *differ) inline(a, b *layout.Inode) error {
	var was []byte
	var err error
	if contentType(a) == logical.InlineType {
		if was, err = d.from.inlineFact(d.ino, a); err != nil {
			return reading(err)
		}
	}
	now, err := d.to.inlineFact(d.ino, b)
	if err != nil {
		return reading(err)
	}
	if (was == nil) == (now == nil) && bytes.Equal(was, now) {
		return nil
	}
	return d.v.Inline(d.ino, now)
}

// xattr compares the attribute of which a piece differs.
func (d *differ) xattr(src *source, x *tree.Different) error {
	sub := x.Key.Sub &^ pieces
	var was *logical.Xattr
	var err error
	if d.from != nil && src == &d.src {
		if was, err = d.from.xattrFact(d.ino, sub); err != nil {
			return reading(err)
		}
	}
	now, err := d.to.xattrFact(d.ino, sub)
	if err != nil {
		return reading(err)
	}
	next, _ := items.XattrKey(d.ino, sub|pieces).Next()
	src.skipTo(next)
	if sameXattr(was, now) {
		return nil
	}
	return d.v.Xattr(d.ino, sub, now)
}

func (d *differ) name(x *tree.Different) error {
	if x.B == nil {
		return d.v.Name(d.ino, x.Key.Sub, nil)
	}
	n, err := layout.DecodeName(x.B)
	if err != nil {
		return reading(fmt.Errorf("directory %d: %w", d.ino, err))
	}
	return d.v.Name(d.ino, x.Key.Sub, &logical.Name{Ino: n.Ino, Type: n.Type, Name: n.Name})
}

// noRanges is Dirty of content that is gone.
func noRanges(func(logical.Range, error) bool) {}

// data compares the extents of an inode, which come last.
func (d *differ) data(src *source, a, b *layout.Inode) error {
	was, now := contentType(a) == logical.DataType, contentType(b) == logical.DataType
	switch {
	case !was && !now:
		return nil
	case !now:
		return d.v.Data(&DataChange{Ino: d.ino, OldSize: a.Size, Gone: true, Dirty: noRanges})
	case !was && a != nil:
		// What the file held while it was small is part of a new fact.
		src = &source{scan: newScan(d.to, items.ExtentKey(d.ino, 0))}
	}
	x := &dirty{ctx: d.ctx, src: src, ino: d.ino, end: b.Size}
	c := &DataChange{Ino: d.ino, Size: b.Size, Dirty: x.yield}
	if was {
		c.OldSize = a.Size
		x.end = max(a.Size, b.Size)
		x.resized(a.Size, b.Size)
	}
	if err := x.start(); err != nil {
		return err
	}
	if was && a.Size == b.Size && x.done {
		return nil
	}
	err := d.v.Data(c)
	x.closed = true
	if x.err != nil { // the visitor's may be a consequence
		return x.err
	}
	return err
}
