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

// FS is a mounted filesystem. All errors wrap one of this package's sentinels.
type FS interface {
	// StatFS answers from memory.
	StatFS() StatFS

	Lookup(parent Ino, name string) (Attr, error)
	GetAttr(ino Ino) (Attr, error)
	// SetAttr changes attributes atomically and returns the new ones.
	SetAttr(req *Req, ino Ino, set *SetAttr) (Attr, error)
	Readlink(ino Ino) (string, error)

	// Mknod makes a regular file, fifo, socket or device node: mode has type
	// and permission bits. It applies umask, default ACL and setgid directory.
	Mknod(req *Req, parent Ino, name string, mode, rdev uint32) (Attr, error)
	Mkdir(req *Req, parent Ino, name string, mode uint32) (Attr, error)
	Symlink(req *Req, parent Ino, name, target string) (Attr, error)
	// Tmpfile makes a regular file without a name (O_TMPFILE); Link gives it
	// one, Forget frees it otherwise.
	Tmpfile(req *Req, parent Ino, mode uint32) (Attr, error)
	Link(req *Req, ino, newParent Ino, newName string) (Attr, error)
	// Unlink and Rmdir remove a name. The inode lives until Forget.
	Unlink(req *Req, parent Ino, name string) error
	Rmdir(req *Req, parent Ino, name string) error
	Rename(req *Req, parent Ino, name string, newParent Ino, newName string, flags uint32) error

	// ReadDir calls fn for each entry after cookie (0: from the start), without
	// "." and "..", until fn returns false. attr is nil unless plus is set.
	// An entry present throughout is seen exactly once, whatever changes meanwhile.
	// fn must not call the FS.
	ReadDir(dir Ino, cookie uint64, plus bool, fn func(d Dirent, attr *Attr) bool) error
	// Parent returns the directory that holds dir (the root's parent is the root).
	Parent(dir Ino) (Ino, error)

	// Read fills dst from off; short only at the end of the file.
	Read(ino Ino, off uint64, dst []byte) (int, error)
	// Write is all or nothing up to a short count; data is not kept.
	// kill clears suid, sgid and security.capability as a write by the unprivileged does.
	Write(req *Req, ino Ino, off uint64, data []byte, kill bool) (int, error)
	// Fallocate reserves a range (or punches a hole): ErrNoSpace, and nothing
	// changed, if there is no room. What is reserved is a hole until it is written.
	Fallocate(req *Req, ino Ino, mode uint32, off, length uint64) error
	// CopyRange copies up to length bytes; short only at the end of src.
	CopyRange(req *Req, src Ino, srcOff uint64, dst Ino, dstOff, length uint64) (uint64, error)
	// SeekData and SeekHole are lseek's SEEK_DATA and SEEK_HOLE: ErrNoData at or beyond the end.
	SeekData(ino Ino, off uint64) (uint64, error)
	SeekHole(ino Ino, off uint64) (uint64, error)

	// GetXattr returns the value; ErrNoXattr where there is none.
	GetXattr(ino Ino, name string) ([]byte, error)
	SetXattr(req *Req, ino Ino, name string, value []byte, flags uint32) error
	ListXattr(ino Ino) ([]string, error)
	RemoveXattr(req *Req, ino Ino, name string) error

	// Sync makes every mutation acknowledged so far durable (fsync of any file
	// does: the log is one ordered stream). On the root directory (ino RootIno)
	// it commits as well, so that nothing waits for replay.
	Sync(ino Ino) error

	// Forget says that nobody holds a reference to ino any more: an inode
	// without names is freed. Calling it for others does nothing.
	Forget(ino Ino)
}
