package layout

import (
	"encoding/binary"
	"strings"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// InodeBytes is the stored size of an Inode.
const InodeBytes = 112

// MaxInline is the largest content of a file that is kept in the tree.
const MaxInline = 2048

// Inode flags.
const (
	InodeInline uint32 = 1 << iota // content is the KeyInline item
	InodeXattrs                    // has extended attributes
	InodeDefaultACL
	InodeAccessACL
	InodeCapability   // has security.capability
	InodeReserved     // has reserved ranges: KeyReserved items
	inodeContentFlags = 1<<iota - 1
)

// Inode flags that users set (chattr(1)). A volume with any of them has FeatureFlags.
const (
	InodeImmutable uint32 = 1 << (8 + iota)
	InodeAppend           // append-only
	InodeNodump
	InodeNoatime

	// InodeUserFlags are all of them.
	InodeUserFlags = InodeImmutable | InodeAppend | InodeNodump | InodeNoatime
	// InodeInherited are the flags that a new inode inherits from its directory.
	InodeInherited = InodeNodump | InodeNoatime

	inodeKnownFlags = inodeContentFlags | InodeUserFlags
)

// Inode is the value of a KeyInode item.
type Inode struct {
	Mode    uint32
	Nlink   uint32
	UID     uint32
	GID     uint32
	Rdev    uint32
	Flags   uint32
	Size    uint64 // bytes of a file or symlink; names in a directory
	Blocks  uint64 // blocks of its extents
	Parent  uint64 // directory with a name of the inode; 0: unknown, but always known for directories
	NameSub uint64 // sub of that name's item; 0: unknown
	Vacant  uint64 // blocks of its reserved ranges without an extent
	Atime   vfs.Timespec
	Mtime   vfs.Timespec
	Ctime   vfs.Timespec
	Btime   vfs.Timespec
}

func putTime(b []byte, t vfs.Timespec) {
	binary.LittleEndian.PutUint64(b, uint64(t.Sec))
	binary.LittleEndian.PutUint32(b[8:], t.Nsec)
}

func getTime(b []byte) vfs.Timespec {
	return vfs.Timespec{Sec: int64(binary.LittleEndian.Uint64(b)), Nsec: binary.LittleEndian.Uint32(b[8:])}
}

// Append encodes the inode.
func (n *Inode) Append(b []byte) []byte {
	i := len(b)
	b = append(b, make([]byte, InodeBytes)...)
	p := b[i:]
	le := binary.LittleEndian
	le.PutUint32(p[0:], n.Mode)
	le.PutUint32(p[4:], n.Nlink)
	le.PutUint32(p[8:], n.UID)
	le.PutUint32(p[12:], n.GID)
	le.PutUint32(p[16:], n.Rdev)
	le.PutUint32(p[20:], n.Flags)
	le.PutUint64(p[24:], n.Size)
	le.PutUint64(p[32:], n.Blocks)
	le.PutUint64(p[40:], n.Parent)
	putTime(p[48:], n.Atime)
	putTime(p[60:], n.Mtime)
	putTime(p[72:], n.Ctime)
	putTime(p[84:], n.Btime)
	le.PutUint64(p[96:], n.NameSub)
	le.PutUint64(p[104:], n.Vacant)
	return b
}

// DecodeInode decodes a whole item value.
func DecodeInode(p []byte) (Inode, error) {
	if len(p) != InodeBytes {
		return Inode{}, corrupt("inode item: invalid length of %d bytes", len(p))
	}
	le := binary.LittleEndian
	n := Inode{
		Mode: le.Uint32(p[0:]), Nlink: le.Uint32(p[4:]), UID: le.Uint32(p[8:]), GID: le.Uint32(p[12:]),
		Rdev: le.Uint32(p[16:]), Flags: le.Uint32(p[20:]), Size: le.Uint64(p[24:]), Blocks: le.Uint64(p[32:]),
		Parent: le.Uint64(p[40:]), NameSub: le.Uint64(p[96:]), Vacant: le.Uint64(p[104:]),
		Atime: getTime(p[48:]), Mtime: getTime(p[60:]), Ctime: getTime(p[72:]), Btime: getTime(p[84:]),
	}
	if n.Flags&^inodeKnownFlags != 0 {
		return Inode{}, corrupt("inode: unknown flags %#x", n.Flags)
	}
	if n.Vacant > MaxReserved || n.Vacant > 0 && n.Flags&InodeReserved == 0 {
		return Inode{}, corrupt("inode: %d vacant reserved blocks do not match flags %#x", n.Vacant, n.Flags)
	}
	if n.Mode > 0o177777 || !knownType(n.Mode&0o170000) {
		return Inode{}, corrupt("inode: invalid mode %#o", n.Mode)
	}
	if n.Size > MaxFileBytes || n.Atime.Nsec >= 1e9 || n.Mtime.Nsec >= 1e9 || n.Ctime.Nsec >= 1e9 || n.Btime.Nsec >= 1e9 {
		return Inode{}, corrupt("inode: size or time out of range")
	}
	return n, nil
}

// knownType reports whether S_IFMT bits are a known type of inode.
func knownType(t uint32) bool {
	switch t {
	case 0o010000, 0o020000, 0o040000, 0o060000, 0o100000, 0o120000, 0o140000:
		return true
	}
	return false
}

// MaxFileBytes is the largest file. Keys allow more than 16 TiB of blocks; the kernel's own limit
// applies.
const MaxFileBytes = 1<<63 - BlockBytes

// Name is the value of a KeyName item.
type Name struct {
	Ino  uint64
	Type uint32 // S_IFMT bits
	Name string
}

// Append encodes the item.
func (n *Name) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, n.Ino)
	b = append(b, uint8(n.Type>>12))
	return append(b, n.Name...)
}

// DecodeName decodes a whole item value.
func DecodeName(b []byte) (Name, error) {
	if len(b) < 10 || len(b) > 9+vfs.MaxNameBytes {
		return Name{}, corrupt("name item: invalid length of %d bytes", len(b))
	}
	n := Name{Ino: binary.LittleEndian.Uint64(b), Type: uint32(b[8]) << 12, Name: string(b[9:])}
	if n.Ino == 0 || !knownType(n.Type) || !ValidName(n.Name) {
		return Name{}, corrupt("name item: invalid inode %d or type %#o", n.Ino, n.Type)
	}
	return n, nil
}

// ValidName reports whether a directory may contain a name.
func ValidName(name string) bool {
	return name != "" && len(name) <= vfs.MaxNameBytes && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// Names of one directory with the same hash share the upper bits of the KeyName sub; the low byte
// counts collisions. Bit 63 is clear, so that a sub is a valid readdir cookie.
const (
	NameHashMask   = 1<<63 - 1<<8
	NameCollisions = 256
)

// Attributes are stored in pieces. The sub of a KeyXattr item has 48 bits of hash, 8 bits that
// count collisions, and 8 bits of piece number.
const (
	XattrHashMask   = ^uint64(1<<16 - 1)
	XattrPieceBytes = 2048
)

// XattrPiece is the value of a KeyXattr item. The first piece has the name and the total length.
type XattrPiece struct {
	Name  string // piece 0 only
	Total uint32 // piece 0 only: bytes of the whole value
	Data  []byte
}

// Append encodes piece number i.
func (x *XattrPiece) Append(b []byte, i int) []byte {
	if i == 0 {
		b = append(b, uint8(len(x.Name)))
		b = append(b, x.Name...)
		b = binary.LittleEndian.AppendUint32(b, x.Total)
	}
	return append(b, x.Data...)
}

// DecodeXattr decodes piece number i; Data aliases b.
func DecodeXattr(b []byte, i int) (XattrPiece, error) {
	var x XattrPiece
	if i == 0 {
		if len(b) < 1 || len(b) < 1+int(b[0])+4 || b[0] == 0 {
			return x, corrupt("attribute item: invalid length of %d bytes", len(b))
		}
		n := int(b[0])
		x.Name = string(b[1 : 1+n])
		x.Total = binary.LittleEndian.Uint32(b[1+n:])
		if x.Total > vfs.MaxXattrBytes {
			return x, corrupt("attribute item: invalid value length %d", x.Total)
		}
		b = b[5+n:]
	}
	if len(b) > XattrPieceBytes {
		return x, corrupt("attribute piece: invalid length of %d bytes", len(b))
	}
	x.Data = b
	return x, nil
}
