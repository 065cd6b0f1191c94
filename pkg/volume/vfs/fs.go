package vfs

// FS is a mounted file system. All errors wrap one of this package's sentinels. Users take only the
// parts that they need: for reading, a Reader is sufficient.
type FS interface {
	Reader
	NameWriter
	FileWriter

	// Sync makes all mutations so far durable, whatever file it is called for, because the log is
	// one ordered stream. For the root directory (RootIno) it also commits, so that the log is
	// empty.
	Sync(ino Ino) error

	// Forget says that there are no more references to ino. If the inode has no names, it is freed.
	// Otherwise, Forget does nothing.
	Forget(ino Ino)
}

// Reader reads a file system. It changes nothing.
type Reader interface {
	// StatFS returns statistics from memory, without I/O.
	StatFS() StatFS

	// Lookup returns the inode of a name in a directory, or ErrNotExist.
	Lookup(parent Ino, name string) (Attr, error)
	// GetAttr returns the attributes of an inode, or ErrStale if it does not exist.
	GetAttr(ino Ino) (Attr, error)
	// Readlink returns the target of a symbolic link.
	Readlink(ino Ino) (string, error)

	// ReadDir calls fn for each entry after cookie, without "." and "..", until fn returns false.
	// Cookie 0 is the start. attr is nil unless plus is set. An entry that exists during the whole
	// listing is seen exactly once, even if the directory changes meanwhile. fn must not call the
	// FS.
	ReadDir(dir Ino, cookie uint64, plus bool, fn func(d Dirent, attr *Attr) bool) error
	// Parent returns the directory that contains dir. The parent of the root is the root.
	Parent(dir Ino) (Ino, error)

	// Read fills dst with the data at off. It returns fewer bytes only at the end of the file.
	Read(ino Ino, off uint64, dst []byte) (int, error)
	// SeekData is SEEK_DATA of lseek(2). At or beyond the end it returns ErrNoData.
	SeekData(ino Ino, off uint64) (uint64, error)
	// SeekHole is SEEK_HOLE of lseek(2). The end of the file counts as a hole. At or beyond it,
	// SeekHole returns ErrNoData.
	SeekHole(ino Ino, off uint64) (uint64, error)

	// GetXattr returns the value of an extended attribute, or ErrNoXattr.
	GetXattr(ino Ino, name string) ([]byte, error)
	// ListXattr returns the names of all extended attributes.
	ListXattr(ino Ino) ([]string, error)
}

// NameWriter changes the names of a file system: it creates, moves and removes inodes.
type NameWriter interface {
	// Mknod creates a regular file, fifo, socket or device node. mode contains type and permission
	// bits. It applies the umask, the default ACL and the set-group-ID bit of the directory.
	Mknod(req *Req, parent Ino, name string, mode, rdev uint32) (Attr, error)
	// Mkdir creates a directory, with the same rules as Mknod.
	Mkdir(req *Req, parent Ino, name string, mode uint32) (Attr, error)
	// Symlink creates a symbolic link to target, which may be any string.
	Symlink(req *Req, parent Ino, name, target string) (Attr, error)
	// Tmpfile creates a regular file without a name (O_TMPFILE). Link gives it a name. Without a
	// name, Forget frees it.
	Tmpfile(req *Req, parent Ino, mode uint32) (Attr, error)
	// Link adds a name to an inode. Directories have only one name.
	Link(req *Req, ino, newParent Ino, newName string) (Attr, error)
	// Unlink removes a name that is not a directory. The inode exists until Forget.
	Unlink(req *Req, parent Ino, name string) error
	// Rmdir removes an empty directory. The inode exists until Forget.
	Rmdir(req *Req, parent Ino, name string) error
	// Rename moves a name, and replaces an existing one unless flags (Rename…) say otherwise. If
	// both names belong to the same inode, nothing happens.
	Rename(req *Req, parent Ino, name string, newParent Ino, newName string, flags uint32) error
}

// FileWriter changes the data, attributes and extended attributes of inodes.
type FileWriter interface {
	// SetAttr changes attributes atomically and returns the new ones.
	SetAttr(req *Req, ino Ino, set *SetAttr) (Attr, error)

	// Write writes data at off. It may write fewer bytes; those are written atomically. It does not
	// keep data. kill clears suid, sgid and security.capability, as for a write of an unprivileged
	// user.
	Write(req *Req, ino Ino, off uint64, data []byte, kill bool) (int, error)
	// Fallocate reserves a range or punches a hole. If there is not enough space, it returns
	// ErrNoSpace and changes nothing. A reserved range is a hole until it is written.
	Fallocate(req *Req, ino Ino, mode uint32, off, length uint64) error
	// CopyRange copies up to length bytes. It copies fewer only at the end of src.
	CopyRange(req *Req, src Ino, srcOff uint64, dst Ino, dstOff, length uint64) (uint64, error)

	// SetXattr sets an extended attribute. Depending on flags (Xattr…), it returns ErrExist or
	// ErrNoXattr.
	SetXattr(req *Req, ino Ino, name string, value []byte, flags uint32) error
	// RemoveXattr removes an extended attribute, or returns ErrNoXattr.
	RemoveXattr(req *Req, ino Ino, name string) error
}
