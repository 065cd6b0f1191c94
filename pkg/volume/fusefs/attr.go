package fusefs

import (
	"bytes"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func (r *raw) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	a, err := r.fs.GetAttr(ino(in.NodeId))
	if err != nil {
		return r.status("GETATTR", ino(in.NodeId), err)
	}
	out.SetTimeout(cacheTime)
	r.attr(&a, &out.Attr)
	return fuse.OK
}

// Statx is sent where somebody wants the time of creation.
func (r *raw) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	a, err := r.fs.GetAttr(ino(in.NodeId))
	if err != nil {
		return r.status("STATX", ino(in.NodeId), err)
	}
	out.SetTimeout(cacheTime)
	sxTime := func(t vfs.Timespec) fuse.SxTime { return fuse.SxTime{Sec: uint64(t.Sec), Nsec: t.Nsec} }
	out.Statx = fuse.Statx{
		Mask:    statxBasic | statxBtime,
		Blksize: blockBytes,
		Nlink:   a.Nlink,
		Uid:     a.UID,
		Gid:     a.GID,
		Mode:    uint16(a.Mode),
		Ino:     uint64(a.Ino),
		Size:    a.Size,
		Blocks:  blocks(&a),
		Atime:   sxTime(a.Atime),
		Btime:   sxTime(a.Btime),
		Ctime:   sxTime(a.Ctime),
		Mtime:   sxTime(a.Mtime),
		// new_encode_dev, include/linux/kdev_t.h
		RdevMajor: a.Rdev >> 8 & 0xfff,
		RdevMinor: a.Rdev&0xff | a.Rdev>>12&0xfff00,
	}
	return fuse.OK
}

func (r *raw) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if r.readOnly {
		return fuse.EROFS
	}
	id := ino(in.NodeId)
	grow := r.beforeGrowth(id, in.Valid&fuse.FATTR_SIZE != 0)
	a, err := r.fs.SetAttr(request(&in.InHeader, 0), id, decodeSetAttr(in))
	if err != nil {
		return r.status("SETATTR", id, err)
	}
	r.zeroTail(id, grow, a.Size)
	out.SetTimeout(cacheTime)
	r.attr(&a, &out.Attr)
	return fuse.OK
}

func decodeSetAttr(in *fuse.SetAttrIn) *vfs.SetAttr {
	set := &vfs.SetAttr{KillSuidgid: in.Valid&fuse.FATTR_KILL_SUIDGID != 0}
	now := vfs.Now()
	if in.Valid&fuse.FATTR_MODE != 0 {
		mode := in.Mode & 0o7777
		set.Mode = &mode
	}
	if in.Valid&fuse.FATTR_UID != 0 {
		uid := in.SetAttrInCommon.Owner.Uid
		set.UID = &uid
	}
	if in.Valid&fuse.FATTR_GID != 0 {
		gid := in.SetAttrInCommon.Owner.Gid
		set.GID = &gid
	}
	if in.Valid&fuse.FATTR_SIZE != 0 {
		size := in.Size
		set.Size = &size
	}
	if in.Valid&fuse.FATTR_ATIME_NOW != 0 {
		set.Atime = &now
	} else if in.Valid&fuse.FATTR_ATIME != 0 {
		set.Atime = &vfs.Timespec{Sec: int64(in.Atime), Nsec: in.Atimensec}
	}
	if in.Valid&fuse.FATTR_MTIME_NOW != 0 {
		set.Mtime = &now
	} else if in.Valid&fuse.FATTR_MTIME != 0 {
		set.Mtime = &vfs.Timespec{Sec: int64(in.Mtime), Nsec: in.Mtimensec}
	}
	if in.Valid&fuse.FATTR_CTIME != 0 {
		set.Ctime = &vfs.Timespec{Sec: int64(in.Ctime), Nsec: in.Ctimensec}
	}
	return set
}

// xattrReply puts value where the caller wants it, or says how large it is.
func xattrReply(value, dest []byte) (uint32, fuse.Status) {
	if len(dest) < len(value) {
		// go-fuse turns this into success for who only asks for the size (no dest).
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

func (r *raw) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	value, err := r.fs.GetXattr(ino(h.NodeId), name)
	if err != nil {
		return 0, r.status("GETXATTR", ino(h.NodeId), err)
	}
	return xattrReply(value, dest)
}

func (r *raw) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	names, err := r.fs.ListXattr(ino(h.NodeId))
	if err != nil {
		return 0, r.status("LISTXATTR", ino(h.NodeId), err)
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
	if in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0 {
		// The owner is not of the file's group. First, lest a crash leave sgid with the new ACL.
		if err := r.clearSgid(req, id); err != nil {
			return r.status("SETXATTR", id, err)
		}
	}
	// A copy, since value lies in the request buffer and the FS may keep it.
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

func (r *raw) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if r.readOnly {
		return fuse.EROFS
	}
	return r.status("REMOVEXATTR", ino(h.NodeId), r.fs.RemoveXattr(request(h, 0), ino(h.NodeId), name))
}

// killedByWrite tells the kernel that a write has cleared suid and sgid of ino, if
// the kernel believes they are set: it looks at times and size again after a
// write, but not at the mode.
func (r *raw) killedByWrite(id vfs.Ino) {
	if !r.suid.remove(id) {
		return
	}
	if err := r.server.InvalInode(id, -1, 0); err != nil {
		r.log.Warn("cannot invalidate attributes", "ino", uint64(id), "err", err)
	}
}

// killPrivileges clears suid, sgid and capabilities where a change of data came
// by a request that has no flag for it (FALLOCATE, COPY_FILE_RANGE). Root should
// keep them, but since we allow idmapped mounts the kernel says no longer who asks
// (the uid is -1), except in kernels that know none; so root loses them too.
func (r *raw) killPrivileges(h *fuse.InHeader, id vfs.Ino) error {
	if h.Uid == 0 {
		return nil
	}
	a, err := r.fs.GetAttr(id)
	if err != nil {
		return err
	}
	if a.Mode&(syscall.S_ISUID|syscall.S_ISGID) == 0 {
		_, err := r.fs.GetXattr(id, capabilityXattr)
		if errors.Is(err, vfs.ErrNoXattr) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	if _, err := r.fs.SetAttr(request(h, 0), id, &vfs.SetAttr{KillSuidgid: true}); err != nil {
		return err
	}
	r.killedByWrite(id)
	return nil
}
