package logical

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// ErrInvalid is about facts that no volume contains.
var ErrInvalid = errors.New("invalid content of a volume")

// Type is the type of a fact.
type Type uint8

// Types of facts.
const (
	InodeType  Type = 1 // sub 0: Inode
	InlineType Type = 2 // sub 0: the whole content of a file up to MaxInline, or the target of a symlink
	XattrType  Type = 3 // sub: hash and number among equal hashes: Xattr
	NameType   Type = 4 // sub: the cookie of ReadDir. Ino is the directory: Name
	DataType   Type = 5 // sub 0: the content of a larger file
)

// MaxInline is the largest content of a regular file that is an inline fact. A regular file has
// either an inline fact or a data fact, whatever the volume does with it; an empty one, and one
// of zeros alone, has none.
const MaxInline = 2048

// Key orders facts: by inode, type, sub.
type Key struct {
	Ino  uint64
	Type Type
	Sub  uint64
}

// Compare orders keys.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Ino, o.Ino), cmp.Compare(k.Type, o.Type), cmp.Compare(k.Sub, o.Sub))
}

// Inode is the attributes of an inode.
type Inode struct {
	Mode  uint32 // type (S_IFMT) and permission bits
	Nlink uint32
	UID   uint32
	GID   uint32
	Rdev  uint32
	Flags uint32 // vfs.Flag…
	Size  uint64 // bytes of a file or symlink; names in a directory
	// Parent is the directory in which the inode got a name last, NameSub the sub of that name. 0:
	// unknown. That of a directory is always known, and its only name. The name of another inode may
	// be gone, and so may the directory.
	Parent  uint64
	NameSub uint64
	Atime   vfs.Timespec
	Mtime   vfs.Timespec
	Ctime   vfs.Timespec
	Btime   vfs.Timespec
}

// Name is one name in a directory.
type Name struct {
	Ino  uint64
	Type uint32 // S_IFMT bits
	Name string
}

// Xattr is one extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

// Range is the bytes [Off, Off+Len) of a file.
type Range struct{ Off, Len uint64 }

// Types of inodes: S_IFMT bits of uapi/linux/stat.h.
const (
	TypeMask = 0o170000
	TypeDir  = 0o040000
	TypeReg  = 0o100000
	TypeLink = 0o120000
)

// KnownFlags are the flags that an inode may have.
const KnownFlags = vfs.FlagImmutable | vfs.FlagAppend | vfs.FlagNodump | vfs.FlagNoatime

// IsDir reports whether the inode is a directory.
func (n *Inode) IsDir() bool { return n.Mode&TypeMask == TypeDir }

// IsRegular reports whether the inode is a regular file.
func (n *Inode) IsRegular() bool { return n.Mode&TypeMask == TypeReg }

// IsSymlink reports whether the inode is a symbolic link.
func (n *Inode) IsSymlink() bool { return n.Mode&TypeMask == TypeLink }

// Validate checks what can be checked of an inode alone.
func (n *Inode) Validate() error {
	switch n.Mode & TypeMask {
	case 0o010000, 0o020000, TypeDir, 0o060000, TypeReg, TypeLink, 0o140000:
	default:
		return fmt.Errorf("%w: mode %#o", ErrInvalid, n.Mode)
	}
	switch {
	case n.Mode > 0o177777, n.Nlink == 0, n.Nlink > vfs.MaxLinks:
		return fmt.Errorf("%w: mode %#o with %d links", ErrInvalid, n.Mode, n.Nlink)
	case n.Flags&^KnownFlags != 0:
		return fmt.Errorf("%w: inode flags %#x", ErrInvalid, n.Flags)
	case n.Size > vfs.MaxFileBytes, n.IsSymlink() && n.Size > vfs.MaxSymlinkBytes:
		return fmt.Errorf("%w: %d bytes", ErrInvalid, n.Size)
	case n.Atime.Nsec >= 1e9, n.Mtime.Nsec >= 1e9, n.Ctime.Nsec >= 1e9, n.Btime.Nsec >= 1e9:
		return fmt.Errorf("%w: a time with more than 999,999,999 ns", ErrInvalid)
	}
	return nil
}
