package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/snapshot/merkle"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/logical/whole"
	"github.com/sealvol/sealvol/pkg/volume/namehash"
)

// xattrPieces is how many keys of the volume each attribute has (docs/format.md).
const xattrPieces = 256

// facts checks inodes, names and extended attributes: what a restore would refuse.
type facts struct {
	fits  fact.Fitting
	names namehash.Hasher
	whole *whole.Check
	ino   uint64 // of the last inode
	bad   bool   // some fact is wrong: what only all together show is not known

	// The names with the same hash, of one directory or inode.
	run   logical.Key
	twins []string
	list  uint64 // bytes of the names of the inode's attributes
}

// add checks a fact. An error is about an inode.
func (f *facts) add(x *merkle.Item) (ino uint64, err error) {
	ino = x.Key.Ino
	if err := f.fits.Add(x.Key, x.Value); err != nil { // what concerns one fact alone, the map has checked
		f.bad = true
		return ino, err
	}
	switch x.Key.Type {
	case logical.InodeType:
		before := f.ino
		f.ino, f.list = ino, 0
		n := f.fits.Inode()
		err = whole.CheckInode(ino, n)
		if werr := f.whole.Inode(ino, whole.Of(n)); err == nil && werr != nil {
			ino, err = before, werr
		}
	case logical.InlineType:
		err = f.whole.Inline(len(x.Value))
	case logical.XattrType:
		err = f.xattr(x)
	case logical.NameType:
		err = f.name(x)
	}
	f.bad = f.bad || err != nil
	return ino, err
}

func (f *facts) name(x *merkle.Item) error {
	n, err := fact.DecodeName(x.Value)
	if err != nil {
		return err
	}
	first, last := f.names.NameSubs(n.Name)
	return errors.Join(f.place(x.Key, first, last, n.Name), f.whole.Name(x.Key.Ino, n.Ino, n.Type))
}

func (f *facts) xattr(x *merkle.Item) error {
	a, err := fact.DecodeXattr(x.Value)
	if err != nil {
		return err
	}
	if err := whole.CheckXattr(x.Key.Ino, f.fits.Inode().Mode, &a, &f.list); err != nil {
		return err
	}
	first, last := f.names.XattrSubs(a.Name)
	if x.Key.Sub%xattrPieces != 0 {
		last = 0 // no attribute begins there
	}
	return f.place(x.Key, first, last, a.Name)
}

// place checks that a name is where readers look for it, and not there twice.
func (f *facts) place(k logical.Key, first, last uint64, name string) error {
	if k.Sub < first || k.Sub > last {
		return fmt.Errorf("%w: the name %q has the number %#x", logical.ErrInvalid, name, k.Sub)
	}
	if run := (logical.Key{Ino: k.Ino, Type: k.Type, Sub: first}); run != f.run {
		f.run, f.twins = run, f.twins[:0]
	}
	if slices.Contains(f.twins, name) {
		return fmt.Errorf("%w: the name %q is there twice", logical.ErrInvalid, name)
	}
	f.twins = append(f.twins, name)
	return nil
}

// finish checks what only all facts together show, if all of them are known.
func (c *checker) finish(ctx context.Context) error {
	if c.facts.bad {
		return nil
	}
	ino, err := c.facts.whole.Finish(mapFacts{ctx, c.src.Map})
	if err == nil {
		return nil
	}
	if ends(ctx, err) {
		return err
	}
	c.problem(Problem{Ino: ino, Err: err})
	return nil
}

// mapFacts reads facts from the map again.
type mapFacts struct {
	ctx context.Context
	m   *merkle.Map
}

// Each implements whole.Source.
func (s mapFacts) Each(v whole.Visitor) error {
	for x, err := range s.m.Scan(s.ctx, logical.Key{}, merkle.LastKey) {
		if err != nil {
			return err
		}
		switch x.Key.Type {
		case logical.InodeType:
			n, err := fact.DecodeInode(x.Value)
			if err == nil {
				err = v.Inode(x.Key.Ino, whole.Of(&n))
			}
			if err != nil {
				return err
			}
		case logical.InlineType:
			if err := v.Inline(len(x.Value)); err != nil {
				return err
			}
		case logical.NameType:
			n, err := fact.DecodeName(x.Value)
			if err == nil {
				err = v.Name(x.Key.Ino, n.Ino, n.Type)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Inode implements whole.Source.
func (s mapFacts) Inode(ino uint64) (whole.Inode, bool, error) {
	b, found, err := s.m.Get(s.ctx, logical.Key{Ino: ino, Type: logical.InodeType})
	if err != nil || !found {
		return whole.Inode{}, false, err
	}
	n, err := fact.DecodeInode(b)
	return whole.Of(&n), err == nil, err
}

// NextDir implements whole.Source.
func (s mapFacts) NextDir(dir, from uint64) (sub, child uint64, err error) {
	for x, err := range s.m.Scan(s.ctx, logical.Key{Ino: dir, Type: logical.NameType, Sub: from}, logical.Key{Ino: dir, Type: logical.NameType, Sub: ^uint64(0)}) {
		if err != nil {
			return 0, 0, err
		}
		n, err := fact.DecodeName(x.Value)
		if err != nil {
			return 0, 0, err
		}
		if n.Type == logical.TypeDir {
			return x.Key.Sub, n.Ino, nil
		}
	}
	return 0, 0, nil
}
