package check

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

func (c *checker) xattrItem(sub uint64, v []byte) error {
	in := &c.in
	i := int(sub & 0xff)
	x, err := layout.DecodeXattr(v, i)
	if err != nil {
		return err
	}
	if i == 0 {
		err = c.endXattr()
		if sub&layout.XattrHashMask != in.xattr&layout.XattrHashMask {
			in.xattrNames = in.xattrNames[:0]
		}
		in.xattr, in.xattrName, in.xattrLeft = sub, x.Name, int(x.Total)
		if h := c.hash.Xattr(x.Name); h != sub&layout.XattrHashMask {
			err = cmp.Or(err, fmt.Errorf("attribute %q is stored under a wrong hash", x.Name))
		}
		if slices.Contains(in.xattrNames, x.Name) {
			err = cmp.Or(err, fmt.Errorf("duplicate attribute %q", x.Name))
		}
		in.xattrNames = append(in.xattrNames, x.Name)
		in.flags |= items.XattrFlags(x.Name)
	} else if sub != in.xattr+uint64(i) || i != in.xattrNext || in.xattrLeft == 0 {
		return fmt.Errorf("piece %d of an attribute has no predecessor", i)
	}
	// All pieces but the last are full. Each piece continues its predecessor.
	if want := min(in.xattrLeft, layout.XattrPieceBytes); len(x.Data) != want {
		in.xattrLeft = 0
		return cmp.Or(err, fmt.Errorf("attribute %q: piece %d has %d bytes instead of %d", in.xattrName, i, len(x.Data), want))
	}
	in.xattrLeft -= len(x.Data)
	in.xattrNext = i + 1
	return err
}

// endXattr is called where no further piece can follow.
func (c *checker) endXattr() error {
	in := &c.in
	if in.xattrLeft > 0 {
		left := in.xattrLeft
		in.xattrLeft = 0
		return fmt.Errorf("attribute %q: the last %d bytes are missing", in.xattrName, left)
	}
	return nil
}

func (c *checker) nameItem(sub uint64, v []byte) error {
	in := &c.in
	n, err := layout.DecodeName(v)
	if err != nil {
		return err
	}
	in.names++
	c.rep.Counts.Names++
	h := c.hash.Name(n.Name)
	if sub&^(layout.NameCollisions-1) != h {
		return fmt.Errorf("name %q is stored under a wrong hash", n.Name)
	}
	if h != in.hash {
		in.hash, in.same = h, in.same[:0]
	}
	if slices.Contains(in.same, n.Name) {
		return fmt.Errorf("duplicate name %q", n.Name)
	}
	in.same = append(in.same, n.Name)
	if n.Ino >= c.root.NextIno {
		return fmt.Errorf("name %q refers to inode %d, but the root's next inode number is %d", n.Name, n.Ino, c.root.NextIno)
	}
	switch n.Type {
	case items.ModeDir, items.ModeReg, items.ModeLink, 0o010000, 0o020000, 0o060000, 0o140000:
	default:
		return fmt.Errorf("name %q has invalid type %#o", n.Name, n.Type)
	}
	s := c.state(n.Ino)
	c.setType(n.Ino, s, n.Type)
	c.addLinks(n.Ino, s, 1)
	if n.Type == items.ModeDir {
		in.dirs++
		c.parents += c.parentMark(in.ino, n.Ino)
	}
	return nil
}

func (c *checker) extentItem(birth, block uint64, v []byte) error {
	in := &c.in
	e, err := layout.DecodeFileExtent(v)
	if err != nil {
		return fmt.Errorf("extent at block %d: %w", block, err)
	}
	c.rep.Counts.Extents++
	n := e.Blocks()
	at := fmt.Sprintf(" at %d+%d", block*layout.BlockBytes, n*layout.BlockBytes)
	if block < in.next {
		c.inodeProblem(in.ino, at, "the extent overlaps its predecessor")
	}
	in.next = max(in.next, block+n)
	in.blocks += n
	if e.Birth > birth || e.RefBirth > birth {
		c.inodeProblem(in.ino, at, "the extent has generation %d (refbirth %d), but its page has generation %d", e.Birth, e.RefBirth, birth)
	}
	// Without reflinks, an extent belongs to the place for which it was sealed.
	if !c.sharing && (e.Object != in.ino || e.Index+uint64(e.First) != block) {
		c.inodeProblem(in.ino, at, "the extent was sealed for inode %d, block %d", e.Object, e.Index+uint64(e.First))
	}
	if err := c.reservedExtent(block, &e); err != nil {
		c.inodeProblem(in.ino, at, "%v", err)
	}
	// Shared data is read once. nameShared finds the other files that refer to damaged data.
	first, ok := c.mark(layout.Run{Start: e.Addr / layout.BlockBytes, Count: uint32(n)}, at, in.ino, true)
	if ok && first > 0 && c.opts.Data {
		c.data.add(c, in.ino, items.Placed{Block: block, FileExtent: e}, "")
	}
	return nil
}
