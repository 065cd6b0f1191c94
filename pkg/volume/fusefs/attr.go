package fusefs

import (
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

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

// Statx answers STATX, which the kernel sends if a program asks for the creation time.
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
	set, err := decodeSetAttr(in), error(nil)
	if *set == (vfs.SetAttr{Ctime: set.Ctime}) {
		set, err = r.setNothing(&in.InHeader, set.Ctime)
	}
	grow := r.beforeGrowth(id, in.Valid&fuse.FATTR_SIZE != 0)
	var a vfs.Attr
	if err == nil {
		a, err = r.fs.SetAttr(request(&in.InHeader, 0), id, set)
	}
	if err != nil {
		return r.status("SETATTR", id, err)
	}
	r.zeroTail(&in.InHeader, id, grow, a.Size)
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
	const present = fuse.FATTR_ATIME_NOW | fuse.FATTR_MTIME_NOW
	set.Touch = in.Valid&present == present
	if in.Valid&fuse.FATTR_CTIME != 0 {
		set.Ctime = &vfs.Timespec{Sec: int64(in.Ctime), Nsec: in.Ctimensec}
	}
	return set
}

// setNothing returns the change of a SETATTR that contains no attribute, or only the change time.
// The kernel sends it for chown(path, -1, -1). Like any chown, it clears suid and sgid and sets the
// change time. But the kernel leaves the clearing to the server, and has not checked the caller's
// permission for it. It sends the same request before a write that must clear these bits. The write
// itself clears them for everybody who may write. So here, only a request of the owner clears them.
func (r *raw) setNothing(h *fuse.InHeader, ctime *vfs.Timespec) (*vfs.SetAttr, error) {
	a, err := r.fs.GetAttr(ino(h.NodeId))
	if err != nil {
		return nil, err
	}
	if ctime == nil { // only a kernel that caches writes sends it
		now := vfs.Now()
		ctime = &now
	}
	if !killable(&a) {
		return &vfs.SetAttr{Ctime: ctime}, nil
	}
	if c := callerOf(h); c.owns(a.UID) {
		return &vfs.SetAttr{Ctime: ctime, KillSuidgid: true}, nil
	}
	return &vfs.SetAttr{}, nil
}

// killable tells whether a has mode bits that a chown clears.
func killable(a *vfs.Attr) bool {
	return a.Mode&syscall.S_IFMT != syscall.S_IFDIR && a.Mode&(syscall.S_ISUID|syscall.S_ISGID) != 0
}

// killedByWrite tells the kernel that a write has cleared suid and sgid of ino, if the kernel has
// them cached. After a write, the kernel fetches times and size again, but not the mode.
func (r *raw) killedByWrite(id vfs.Ino) {
	if !r.suid.remove(id) {
		return
	}
	if err := r.server.InvalInode(id, -1, 0); err != nil {
		r.log.Warn("cannot invalidate attributes", "inode", uint64(id), "error", err)
	}
}

// killPrivileges clears suid, sgid and capabilities after a change of data by a request that has no
// flag for this (FALLOCATE, COPY_FILE_RANGE). For a caller with CAP_FSETID, it clears nothing.
func (r *raw) killPrivileges(h *fuse.InHeader, id vfs.Ino) error {
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
	if c := callerOf(h); c.has(unix.CAP_FSETID) {
		return nil
	}
	if _, err := r.fs.SetAttr(request(h, 0), id, &vfs.SetAttr{KillSuidgid: true}); err != nil {
		return err
	}
	r.killedByWrite(id)
	return nil
}
