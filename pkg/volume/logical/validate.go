package logical

import (
	"fmt"
	"strings"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Validate checks what can be checked of a name alone.
func (n *Name) Validate() error {
	switch n.Type {
	case 0o010000, 0o020000, TypeDir, 0o060000, TypeReg, TypeLink, 0o140000:
	default:
		return fmt.Errorf("%w: a name of type %#o", ErrInvalid, n.Type)
	}
	switch {
	case n.Ino == 0:
		return fmt.Errorf("%w: a name of inode 0", ErrInvalid)
	case n.Name == "", len(n.Name) > vfs.MaxNameBytes, n.Name == ".", n.Name == "..", strings.ContainsAny(n.Name, "/\x00"):
		return fmt.Errorf("%w: the name %.300q", ErrInvalid, n.Name)
	}
	return nil
}

// Validate checks what can be checked of an extended attribute alone.
func (x *Xattr) Validate() error {
	switch {
	case x.Name == "", len(x.Name) > vfs.MaxXattrName, strings.ContainsRune(x.Name, 0):
		return fmt.Errorf("%w: an extended attribute with the name %.300q", ErrInvalid, x.Name)
	case len(x.Value) > vfs.MaxXattrBytes:
		return fmt.Errorf("%w: an extended attribute of %d bytes", ErrInvalid, len(x.Value))
	}
	return nil
}

// Validate checks that facts can have the key.
func (k Key) Validate() error {
	switch {
	case k.Ino == 0, k.Type < InodeType, k.Type > DataType,
		k.Sub != 0 && k.Type != XattrType && k.Type != NameType,
		k.Type == NameType && (k.Sub == 0 || k.Sub > vfs.MaxCookie):
		return fmt.Errorf("%w: a fact of inode %d with type %d and sub %#x", ErrInvalid, k.Ino, k.Type, k.Sub)
	}
	return nil
}
