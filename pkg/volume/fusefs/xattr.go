package fusefs

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// The namespaces of attribute names on Linux file systems (xattr(7)). In "system.", only the POSIX
// ACLs are supported.
const (
	trustedPrefix = "trusted."
	aclAccess     = "system.posix_acl_access"
	aclDefault    = "system.posix_acl_default"
)

// checkXattrName checks a name like ext4, because the kernel passes on all names. It has already
// checked the permissions for "user." and "trusted.".
func checkXattrName(name string) error {
	if name == aclAccess || name == aclDefault {
		return nil
	}
	for _, prefix := range []string{"user.", trustedPrefix, "security."} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			if rest == "" {
				return vfs.ErrInvalid
			}
			return nil
		}
	}
	return vfs.ErrNotSupported
}

// xattrReply copies value to the caller's buffer, or returns its size.
func xattrReply(value, dest []byte) (uint32, fuse.Status) {
	if len(dest) < len(value) {
		// If the caller asks only for the size (no dest), go-fuse turns this into success.
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

// GetXAttr also reads names that cannot be set, because earlier versions allowed them.
func (r *raw) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	value, err := r.fs.GetXattr(ino(h.NodeId), name)
	if err != nil {
		return 0, r.status("GETXATTR", ino(h.NodeId), orNameError(name, err))
	}
	return xattrReply(value, dest)
}

// orNameError returns the error for a missing attribute. If its name is invalid, it is the error of
// the name.
func orNameError(name string, err error) error {
	if bad := checkXattrName(name); bad != nil && errors.Is(err, vfs.ErrNoXattr) {
		return bad
	}
	return err
}

// ListXAttr lists trusted attributes only for callers that may read them. Programs of other users
// would try to copy all listed attributes, and fail.
func (r *raw) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	names, err := r.fs.ListXattr(ino(h.NodeId))
	if err != nil {
		return 0, r.status("LISTXATTR", ino(h.NodeId), err)
	}
	trusted := func(name string) bool { return strings.HasPrefix(name, trustedPrefix) }
	if slices.ContainsFunc(names, trusted) {
		if c := callerOf(h); !c.has(unix.CAP_SYS_ADMIN) {
			names = slices.DeleteFunc(names, trusted)
		}
	}
	size := 0
	for _, name := range names {
		size += len(name) + 1
	}
	if size > vfs.MaxXattrBytes {
		return 0, fuse.Status(syscall.E2BIG) // XATTR_LIST_MAX
	}
	list := make([]byte, 0, size)
	for _, name := range names {
		list = append(append(list, name...), 0)
	}
	return xattrReply(list, dest)
}

func (r *raw) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	if r.readOnly {
		return fuse.EROFS
	}
	id, req := ino(in.NodeId), request(&in.InHeader, 0)
	if err := checkXattrName(name); err != nil {
		return r.status("SETXATTR", id, err)
	}
	if in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0 {
		// The owner is not in the file's group. Clear sgid first, so that a crash cannot leave it
		// with the new ACL.
		if err := r.clearSgid(req, id); err != nil {
			return r.status("SETXATTR", id, err)
		}
	}
	// Copy value, because it is in the request buffer and the FS may keep it.
	return r.status("SETXATTR", id, r.fs.SetXattr(req, id, name, bytes.Clone(value), in.Flags))
}

func (r *raw) clearSgid(req *vfs.Req, id vfs.Ino) error {
	a, err := r.fs.GetAttr(id)
	if err != nil || a.Mode&syscall.S_ISGID == 0 {
		return err
	}
	mode := a.Mode & 0o7777 &^ syscall.S_ISGID
	_, err = r.fs.SetAttr(req, id, &vfs.SetAttr{Mode: &mode})
	return err
}

// RemoveXAttr also removes names that cannot be set, like GetXAttr.
func (r *raw) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if r.readOnly {
		return fuse.EROFS
	}
	err := r.fs.RemoveXattr(request(h, 0), ino(h.NodeId), name)
	return r.status("REMOVEXATTR", ino(h.NodeId), orNameError(name, err))
}
