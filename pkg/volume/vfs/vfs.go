package vfs

import (
	"context"
	"time"
)

// Ino is an inode number. 0 is never valid.
type Ino uint64

// RootIno is the inode of the root directory, as FUSE requires.
const RootIno Ino = 1

// Limits that every FS enforces.
const (
	MaxNameBytes    = 255       // length of a name; ErrNameTooLong above
	MaxSymlinkBytes = 4095      // PATH_MAX without the NUL
	MaxXattrBytes   = 65536     // XATTR_SIZE_MAX of Linux
	MaxXattrName    = 255       // XATTR_NAME_MAX of Linux
	MaxXattrList    = 65536     // XATTR_LIST_MAX of Linux: the names of one inode, each with a NUL
	MaxLinks        = 1<<31 - 1 // hard links of one inode
	MaxFileBytes    = 1<<63 - 1 // limited further by the format (ErrFileTooBig)
	MaxCookie       = 1<<63 - 3 // the kernel's limit minus two, which fusefs needs for "." and ".."
)

// Timespec is a point in time. Nsec is in [0, 1e9).
type Timespec struct {
	Sec  int64
	Nsec uint32
}

// Now returns the current time.
func Now() Timespec {
	t := time.Now()
	return Timespec{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}

// Attr contains the attributes of an inode, as in stat(2).
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

// Req describes the request that causes a mutation.
type Req struct {
	Unique uint64 // FUSE request id, 0 when there is none
	UID    uint32 // the caller, and the owner of inodes that it creates
	GID    uint32
	Umask  uint32 // applied to new inodes unless the parent has a default ACL

	// Append means that the file was opened for appending (O_APPEND).
	Append bool
}

// SetAttr contains the attributes to change. A nil field does not change.
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
	// Touch means that Atime and Mtime are the current time. Every user who may write may set them.
	Touch bool
}

// Inode flags that users set: FS_*_FL, include/uapi/linux/fs.h.
const (
	FlagImmutable uint32 = 0x10 // the file cannot be changed
	FlagAppend    uint32 = 0x20 // data can only be appended, and names only added to a directory
	FlagNodump    uint32 = 0x40 // dump(8) skips the file
	FlagNoatime   uint32 = 0x80 // access times do not change
)

// Flagger is an FS whose inodes have such flags. It enforces them: forbidden operations return
// ErrNotPermitted. The caller has already checked who may set them, like all permissions.
type Flagger interface {
	// Flags returns the flags of an inode.
	Flags(ino Ino) (uint32, error)
	// SetFlags replaces all flags. An unknown flag gives ErrNotSupported.
	SetFlags(req *Req, ino Ino, flags uint32) error
}

// Trimmer is an FS that can discard free space on its device, as FITRIM does.
type Trimmer interface {
	// TrimRange discards ranges of free space of at least shortest bytes in [off, off+length) of
	// the device. It returns the number of discarded bytes.
	TrimRange(ctx context.Context, off, length, shortest uint64) (uint64, error)
}

// Dirent is one name of a directory.
type Dirent struct {
	Name   string
	Ino    Ino
	Type   uint32 // S_IFMT bits
	Cookie uint64 // ReadDir continues after this entry with it; 1 to MaxCookie
}

// StatFS contains the numbers that df shows. Blocks have BlockSize bytes.
type StatFS struct {
	BlockSize   uint32
	Blocks      uint64
	BlocksFree  uint64 // including the reserve
	BlocksAvail uint64 // available to writers
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
