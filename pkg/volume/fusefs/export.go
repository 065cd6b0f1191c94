package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// File handles (name_to_handle_at(2), NFS) contain a node id, and possibly that of the parent
// directory. Node ids are inode numbers, which are never reused, so a handle always refers to the
// same inode, even in later mounts. If the kernel does not know an inode, it sends LOOKUP of "."
// with that node id. To find the parent of a directory, it sends LOOKUP of ".."
// (FUSE_EXPORT_SUPPORT).

// keepsInos tells whether a handle may outlive the mount. If a later mount of the FS may reuse
// inode numbers, handles are valid only for inodes that the kernel still knows.
func keepsInos(fs vfs.FS) bool {
	r, ok := vfs.As[vfs.InoReuser](fs)
	return !ok || !r.ReusesInos()
}

// isSelf tells whether a name is "." or "..", which are never entries.
func isSelf(name string) bool { return name == "." || name == ".." }

// lookupSelf answers LOOKUP of "." and "..". An inode without names that the kernel does not hold
// is gone, even if its FORGET has not arrived yet.
func (r *raw) lookupSelf(id vfs.Ino, name string, out *fuse.EntryOut) fuse.Status {
	begun := r.refs.begin()
	a, err := r.fs.GetAttr(id)
	if err == nil && a.Nlink == 0 {
		err = vfs.ErrStale
	}
	if err == nil && name == ".." {
		if id, err = r.fs.Parent(id); err == nil {
			a, err = r.fs.GetAttr(id)
		}
	}
	return r.created("LOOKUP", id, begun, a, err, out)
}
