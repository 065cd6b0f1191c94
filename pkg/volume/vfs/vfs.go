package vfs

import (
	"context"
	"time"
)

// Ino names an inode. 0 is never valid.
type Ino uint64

// RootIno is the root directory, as FUSE wants it.
const RootIno Ino = 1

// Limits that every FS enforces.
const (
	MaxNameBytes    = 255       // one directory entry; ErrNameTooLong above
	MaxSymlinkBytes = 4095      // PATH_MAX less the NUL
	MaxXattrBytes   = 65536     // XATTR_SIZE_MAX of Linux
	MaxXattrName    = 255       // XATTR_NAME_MAX of Linux
	MaxLinks        = 1<<31 - 1 // hard links of one inode
	MaxFileBytes    = 1<<63 - 1 // limited further by the format (ErrFileTooBig)
	MaxCookie       = 1<<63 - 3 // fusefs needs two more beneath the kernel's limit, for "." and ".."
)

// Timespec is a moment, nanoseconds within the second in [0, 1e9).
type Timespec struct {
	Sec  int64
	Nsec uint32
}

// Now is the present moment.
func Now() Timespec {
	t := time.Now()
	return Timespec{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}

// Attr is what stat(2) tells of an inode.
type Attr struct {
	Ino    Ino
	Mode   uint32 // type (S_IFMT) and permission bits
	Nlink  uint32
	UID    uint32
	GID    uint32
	Rdev   uint32 // device number of special files, in the kernel's new_encode_dev form
	Size   uint64 // bytes
	Blocks uint64 // allocated space in 512-byte units
	Atime  Timespec
	Mtime  Timespec
	Ctime  Timespec
	Btime  Timespec // creation
}

// Req identifies the request that causes a mutation.
type Req struct {
	Unique uint64 // FUSE request id, 0 when there is none
	UID    uint32 // the caller's; owner of what it creates
	GID    uint32
	Umask  uint32 // applied at creation unless the parent has a default ACL

	// Append says that a write comes by a file that is open for appending (O_APPEND).
	Append bool
}

// SetAttr says which attributes change. A nil field stays.
type SetAttr struct {
	Mode  *uint32 // permission bits only
	UID   *uint32
	GID   *uint32
	Size  *uint64
	Atime *Timespec
	Mtime *Timespec
	Ctime *Timespec // default: now
	// KillSuidgid clears suid, sgid (when group-executable) and
	// security.capability (FUSE_HANDLE_KILLPRIV_V2: chown and truncate by the unprivileged).
	KillSuidgid bool
	// Touch says that Atime and Mtime are the present moment: whoever may write may set them.
	Touch bool
}

// Inode flags that users set: FS_*_FL, include/uapi/linux/fs.h.
const (
	FlagImmutable uint32 = 0x10 // nothing changes
	FlagAppend    uint32 = 0x20 // content is only appended to, names of a directory are only added
	FlagNodump    uint32 = 0x40 // left out by dump(8)
	FlagNoatime   uint32 = 0x80 // access times stay
)

// Flagger is an FS whose inodes have such flags. It keeps to them: what they forbid is
// ErrNotPermitted. Who may set them was checked before, as all permissions.
type Flagger interface {
	// Flags returns the flags of an inode.
	Flags(ino Ino) (uint32, error)
	// SetFlags replaces all flags; ErrNotSupported if one is not known.
	SetFlags(req *Req, ino Ino, flags uint32) error
}

// Trimmer is an FS that can tell its device which space is free, as of FITRIM.
type Trimmer interface {
	// TrimRange discards free runs of at least shortest bytes in [off, off+length) of the device, and returns how many bytes that were.
	TrimRange(ctx context.Context, off, length, shortest uint64) (uint64, error)
}

// Dirent is one name of a directory.
type Dirent struct {
	Name   string
	Ino    Ino
	Type   uint32 // S_IFMT bits
	Cookie uint64 // give it to ReadDir to go on after this entry; 1 to MaxCookie
}

// StatFS is what df shows. Blocks are of BlockSize bytes.
type StatFS struct {
	BlockSize   uint32
	Blocks      uint64
	BlocksFree  uint64 // with the reserve
	BlocksAvail uint64 // what writers can have
	Inodes      uint64
	InodesFree  uint64
	NameMax     uint32
}

// Rename flags, as of renameat2(2).
const (
	RenameNoreplace uint32 = 1
	RenameExchange  uint32 = 2
	RenameWhiteout  uint32 = 4
)

// Fallocate modes, as of fallocate(2).
const (
	FallocKeepSize  uint32 = 1
	FallocPunchHole uint32 = 2
	FallocZeroRange uint32 = 16
)

// Xattr flags, as of setxattr(2).
const (
	XattrCreate  uint32 = 1
	XattrReplace uint32 = 2
)
