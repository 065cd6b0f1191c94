package vfs

// FS is a mounted filesystem. All errors wrap one of this package's sentinels. Its parts are what
// its users need: whoever only reads takes a Reader.
type FS interface {
	Reader
	NameWriter
	FileWriter

	// Sync makes every mutation acknowledged so far durable (fsync of any file
	// does: the log is one ordered stream). On the root directory (ino RootIno)
	// it commits as well, so that nothing waits for replay.
	Sync(ino Ino) error

	// Forget says that nobody holds a reference to ino any more: an inode
	// without names is freed. Calling it for others does nothing.
	Forget(ino Ino)
}

// Reader is all that reading a filesystem needs; it changes nothing.
type Reader interface {
	// StatFS answers from memory.
	StatFS() StatFS

	// Lookup returns the inode that a name in a directory stands for; ErrNotExist if there is none.
	Lookup(parent Ino, name string) (Attr, error)
	// GetAttr returns the attributes of an inode; ErrStale if there is none.
	GetAttr(ino Ino) (Attr, error)
	// Readlink returns where a symbolic link leads.
	Readlink(ino Ino) (string, error)

	// ReadDir calls fn for each entry after cookie (0: from the start), without
	// "." and "..", until fn returns false. attr is nil unless plus is set.
	// An entry present throughout is seen exactly once, whatever changes meanwhile.
	// fn must not call the FS.
	ReadDir(dir Ino, cookie uint64, plus bool, fn func(d Dirent, attr *Attr) bool) error
	// Parent returns the directory that holds dir (the root's parent is the root).
	Parent(dir Ino) (Ino, error)

	// Read fills dst from off; short only at the end of the file.
	Read(ino Ino, off uint64, dst []byte) (int, error)
	// SeekData is lseek's SEEK_DATA: ErrNoData at or beyond the end.
	SeekData(ino Ino, off uint64) (uint64, error)
	// SeekHole is lseek's SEEK_HOLE: ErrNoData at or beyond the end, which is a hole.
	SeekHole(ino Ino, off uint64) (uint64, error)

	// GetXattr returns the value; ErrNoXattr where there is none.
	GetXattr(ino Ino, name string) ([]byte, error)
	// ListXattr returns the names of all extended attributes.
	ListXattr(ino Ino) ([]string, error)
}

// NameWriter changes the names of a filesystem: it makes, moves and removes inodes.
type NameWriter interface {
	// Mknod makes a regular file, fifo, socket or device node: mode has type
	// and permission bits. It applies umask, default ACL and setgid directory.
	Mknod(req *Req, parent Ino, name string, mode, rdev uint32) (Attr, error)
	// Mkdir makes a directory; as Mknod.
	Mkdir(req *Req, parent Ino, name string, mode uint32) (Attr, error)
	// Symlink makes a symbolic link to target, which may be anything.
	Symlink(req *Req, parent Ino, name, target string) (Attr, error)
	// Tmpfile makes a regular file without a name (O_TMPFILE); Link gives it
	// one, Forget frees it otherwise.
	Tmpfile(req *Req, parent Ino, mode uint32) (Attr, error)
	// Link gives an inode one more name. Directories have one alone.
	Link(req *Req, ino, newParent Ino, newName string) (Attr, error)
	// Unlink removes a name that is no directory's. The inode lives until Forget.
	Unlink(req *Req, parent Ino, name string) error
	// Rmdir removes an empty directory. The inode lives until Forget.
	Rmdir(req *Req, parent Ino, name string) error
	// Rename moves a name, in the place of another one unless flags (Rename…) say otherwise. Both
	// may be one inode's: then nothing happens.
	Rename(req *Req, parent Ino, name string, newParent Ino, newName string, flags uint32) error
}

// FileWriter changes what inodes hold: data, attributes, extended attributes.
type FileWriter interface {
	// SetAttr changes attributes atomically and returns the new ones.
	SetAttr(req *Req, ino Ino, set *SetAttr) (Attr, error)

	// Write is all or nothing up to a short count; data is not kept.
	// kill clears suid, sgid and security.capability as a write by the unprivileged does.
	Write(req *Req, ino Ino, off uint64, data []byte, kill bool) (int, error)
	// Fallocate reserves a range (or punches a hole): ErrNoSpace, and nothing
	// changed, if there is no room. What is reserved is a hole until it is written.
	Fallocate(req *Req, ino Ino, mode uint32, off, length uint64) error
	// CopyRange copies up to length bytes; short only at the end of src.
	CopyRange(req *Req, src Ino, srcOff uint64, dst Ino, dstOff, length uint64) (uint64, error)

	// SetXattr sets an extended attribute; flags are Xattr…: ErrExist or ErrNoXattr where they say so.
	SetXattr(req *Req, ino Ino, name string, value []byte, flags uint32) error
	// RemoveXattr removes an extended attribute; ErrNoXattr if there is none.
	RemoveXattr(req *Req, ino Ino, name string) error
}
