package fusefs

import (
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Directory offsets for the kernel: 1 is after ".", 2 is after "..", and the offset of an entry of
// the FS is its cookie plus dotEntries.
const dotEntries = 2

// The number of times that a name is looked up again if its inode was freed between finding and
// holding it.
const lookupTries = 3

func (r *raw) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if isSelf(name) {
		return r.lookupSelf(ino(h.NodeId), name, out)
	}
	for range lookupTries {
		begun := r.refs.begin()
		a, err := r.fs.Lookup(ino(h.NodeId), name)
		if errors.Is(err, vfs.ErrNotExist) {
			out.SetEntryTimeout(cacheTime) // node id 0: the kernel caches that the name does not exist
			return fuse.OK
		}
		if err != nil {
			return r.status("LOOKUP", ino(h.NodeId), err)
		}
		if r.refs.hold(a.Ino, begun) {
			r.entry(&a, out)
			return fuse.OK
		}
	}
	return fuse.Status(syscall.ESTALE)
}

func (r *raw) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	if r.readOnly {
		return fuse.EROFS
	}
	begun := r.refs.begin()
	a, err := r.fs.Mknod(request(&in.InHeader, in.Umask), ino(in.NodeId), name, in.Mode, in.Rdev)
	return r.created("MKNOD", ino(in.NodeId), begun, a, err, out)
}

func (r *raw) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	if r.readOnly {
		return fuse.EROFS
	}
	begun := r.refs.begin()
	a, err := r.fs.Mkdir(request(&in.InHeader, in.Umask), ino(in.NodeId), name, in.Mode&0o7777)
	return r.created("MKDIR", ino(in.NodeId), begun, a, err, out)
}

func (r *raw) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	if r.readOnly {
		return fuse.EROFS
	}
	begun := r.refs.begin()
	a, err := r.fs.Symlink(request(h, 0), ino(h.NodeId), name, target)
	return r.created("SYMLINK", ino(h.NodeId), begun, a, err, out)
}

func (r *raw) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	target, err := r.fs.Readlink(ino(h.NodeId))
	if err != nil {
		return nil, r.status("READLINK", ino(h.NodeId), err)
	}
	return []byte(target), fuse.OK
}

func (r *raw) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	if r.readOnly {
		return fuse.EROFS
	}
	begun := r.refs.begin()
	a, err := r.fs.Link(request(&in.InHeader, 0), ino(in.Oldnodeid), ino(in.NodeId), name)
	return r.created("LINK", ino(in.NodeId), begun, a, err, out)
}

func (r *raw) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if r.readOnly {
		return fuse.EROFS
	}
	return r.status("UNLINK", ino(h.NodeId), r.fs.Unlink(request(h, 0), ino(h.NodeId), name))
}

func (r *raw) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if r.readOnly {
		return fuse.EROFS
	}
	return r.status("RMDIR", ino(h.NodeId), r.fs.Rmdir(request(h, 0), ino(h.NodeId), name))
}

// Rename answers RENAME and RENAME2. A whiteout belongs to the caller, so the ids are needed here,
// too.
func (r *raw) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	if r.readOnly {
		return fuse.EROFS
	}
	err := r.fs.Rename(request(&in.InHeader, 0), ino(in.NodeId), oldName, ino(in.Newdir), newName, in.Flags)
	return r.status("RENAME", ino(in.NodeId), err)
}

// OpenDir is answered like Open. The kernel then caches the contents of directories.
func (r *raw) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if r.kernelFlags&fuse.CAP_NO_OPENDIR_SUPPORT != 0 {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	return fuse.OK
}

func (r *raw) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return r.status("FSYNCDIR", ino(in.NodeId), r.fs.Sync(ino(in.NodeId)))
}

func (r *raw) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	dir := ino(in.NodeId)
	off, full := r.dots(dir, in.Offset, func(e fuse.DirEntry) bool { return out.AddDirEntry(e) })
	if full {
		return fuse.OK
	}
	err := r.fs.ReadDir(dir, off-dotEntries, false, func(d vfs.Dirent, _ *vfs.Attr) bool {
		return out.AddDirEntry(dirEntry(&d))
	})
	return r.status("READDIR", dir, err)
}

func (r *raw) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	dir := ino(in.NodeId)
	// The zeroed EntryOut of "." and ".." means that they are not looked up.
	off, full := r.dots(dir, in.Offset, func(e fuse.DirEntry) bool { return out.AddDirLookupEntry(e) != nil })
	if full {
		return fuse.OK
	}
	begun := r.refs.begin()
	var looked []*fuse.EntryOut
	err := r.fs.ReadDir(dir, off-dotEntries, true, func(d vfs.Dirent, a *vfs.Attr) bool {
		e := out.AddDirLookupEntry(dirEntry(&d))
		if e == nil {
			return false
		}
		if a != nil {
			r.entry(a, e)
			looked = append(looked, e)
		}
		return true
	})
	if err != nil {
		return r.status("READDIRPLUS", dir, err)
	}
	for _, e := range looked {
		if !r.refs.hold(vfs.Ino(e.NodeId), begun) {
			*e = fuse.EntryOut{} // freed meanwhile: return the name without a lookup
		}
	}
	return fuse.OK
}

func dirEntry(d *vfs.Dirent) fuse.DirEntry {
	return fuse.DirEntry{Name: d.Name, Ino: uint64(d.Ino), Mode: d.Type, Off: d.Cookie + dotEntries}
}

// dots adds "." and ".." if they come after off. It returns the offset to continue at, and true if
// the answer is full.
func (r *raw) dots(dir vfs.Ino, off uint64, add func(fuse.DirEntry) bool) (uint64, bool) {
	if off == 0 {
		if !add(fuse.DirEntry{Name: ".", Ino: uint64(dir), Mode: syscall.S_IFDIR, Off: 1}) {
			return 0, true
		}
		off = 1
	}
	if off == 1 {
		parent, err := r.fs.Parent(dir)
		if err != nil {
			parent = dir // a removed directory has no parent
		}
		if !add(fuse.DirEntry{Name: "..", Ino: uint64(parent), Mode: syscall.S_IFDIR, Off: 2}) {
			return 1, true
		}
		off = 2
	}
	return off, false
}
