package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// File handles (name_to_handle_at(2), NFS) hold a node id, and of a directory's entries also the
// parent's. Node ids are inode numbers and never used again, so a handle means the same inode for
// ever, in later mounts, too. Of an inode that the kernel has forgotten it asks by LOOKUP of "." with that node id, of a directory's parent by LOOKUP of
// ".." (FUSE_EXPORT_SUPPORT).

// keepsInos tells whether a handle may outlive the mount. An FS whose inode numbers a later mount
// may use again says so; its handles are good for what the kernel still knows.
func keepsInos(fs vfs.FS) bool {
	r, ok := vfs.As[vfs.InoReuser](fs)
	return !ok || !r.ReusesInos()
}

// isSelf tells these names, which never stand for an entry.
func isSelf(name string) bool { return name == "." || name == ".." }

// lookupSelf answers LOOKUP of "." and "..". An inode without a name that the kernel does not
// hold is gone, though its FORGET may be on the way still.
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
