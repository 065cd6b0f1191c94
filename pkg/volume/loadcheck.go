package volume

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/logical/whole"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// checkFacts checks that the facts make a whole volume, when all of them are there. What concerns one
// fact was checked when it was loaded. It reads the newest root, which has all of them.
func (l *Loader) checkFacts() error {
	c, src := whole.New(), loadedFacts{l.v}
	if err := src.Each(c); err != nil {
		return err
	}
	_, err := c.Finish(src)
	if errors.Is(err, whole.ErrChanging) { // nobody else writes
		err = fmt.Errorf("%w: %w", layout.ErrCorrupt, err)
	}
	return err
}

// loadedFacts is a volume all of whose facts are in its newest durable root.
type loadedFacts struct{ v *Volume }

// loadAhead is how many pages Each reads ahead.
const loadAhead = 16

// Each implements whole.Source. Pages that hold only extents of a file are not read.
func (s loadedFacts) Each(to whole.Visitor) error {
	root, release := s.v.pinRoot()
	defer release()
	d := tree.NewDiffer(s.v.cache, layout.Pointer{}, root.Trees[layout.TreeFS], loadAhead)
	defer d.Close()
	d.SkipTo(items.InodeKey(uint64(vfs.RootIno)))
	for {
		x, more, err := d.Next()
		if err != nil || !more {
			return err
		}
		if x.Key.Type == layout.KeyExtent {
			d.SkipTo(layout.Key{Obj: x.Key.Obj + 1})
			continue
		}
		if err := giveFact(to, x.Key, x.B); err != nil {
			return err
		}
	}
}

// giveFact gives an item of the tree to a visitor, if it is a fact for it.
func giveFact(to whole.Visitor, k layout.Key, val []byte) error {
	switch k.Type {
	case layout.KeyInode:
		in, err := layout.DecodeInode(val)
		if err != nil {
			return err
		}
		return to.Inode(k.Obj, wholeInode(&in))
	case layout.KeyInline:
		return to.Inline(len(val))
	case layout.KeyName:
		n, err := layout.DecodeName(val)
		if err != nil {
			return err
		}
		return to.Name(k.Obj, n.Ino, n.Type)
	}
	return nil
}

func wholeInode(in *layout.Inode) whole.Inode {
	return whole.Inode{Mode: in.Mode, Nlink: in.Nlink, Size: in.Size, Parent: in.Parent, NameSub: in.NameSub}
}

// Inode implements whole.Source.
func (s loadedFacts) Inode(ino uint64) (whole.Inode, bool, error) {
	in, err := s.v.table.readInode(ino)
	if isStale(err) {
		return whole.Inode{}, false, nil
	}
	return wholeInode(&in), err == nil, err
}

// NextDir implements whole.Source.
func (s loadedFacts) NextDir(dir, from uint64) (sub, child uint64, err error) {
	var derr error
	err = s.v.fs.Scan(items.NameKey(dir, from), items.NameKey(dir, ^uint64(0)), func(k layout.Key, val []byte) bool {
		n, err := layout.DecodeName(val)
		if derr = err; err == nil && n.Type == items.ModeDir {
			sub, child = k.Sub, n.Ino
		}
		return child == 0 && err == nil
	})
	if err == nil {
		err = derr
	}
	return sub, child, err
}
