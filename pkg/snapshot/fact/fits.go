package fact

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// Fitting checks that content belongs to the inode before it. It is told all facts in the order of
// their keys. What concerns one fact alone is checked when that is decoded.
type Fitting struct {
	ino   uint64
	inode logical.Inode
}

// Inode returns the attributes of the inode whose facts are being given.
func (f *Fitting) Inode() *logical.Inode { return &f.inode }

// Add takes a fact. An error is about it and its inode.
func (f *Fitting) Add(k logical.Key, v []byte) (err error) {
	if k.Type == logical.InodeType {
		f.ino = k.Ino
		f.inode, err = DecodeInode(v)
		return err
	}
	if k.Ino != f.ino {
		return fmt.Errorf("%w: there is a fact of type %d, and no inode", ErrInvalid, k.Type)
	}
	n := &f.inode
	switch k.Type {
	case logical.InlineType:
		if !n.IsSymlink() && (!n.IsRegular() || n.Size > logical.MaxInline) || uint64(len(v)) != n.Size {
			return fmt.Errorf("%w: an inode of mode %#o and %d bytes has %d bytes of inline content", ErrInvalid, n.Mode, n.Size, len(v))
		}
	case logical.NameType:
		if !n.IsDir() {
			return fmt.Errorf("%w: an inode of mode %#o has a name in it", ErrInvalid, n.Mode)
		}
	case logical.DataType:
		o, err := DecodeData(v)
		if err != nil {
			return err
		}
		if !n.IsRegular() || uint64(o.Bytes) != n.Size {
			return fmt.Errorf("%w: an inode of mode %#o and %d bytes has %d bytes of data", ErrInvalid, n.Mode, n.Size, o.Bytes)
		}
	}
	return nil
}
