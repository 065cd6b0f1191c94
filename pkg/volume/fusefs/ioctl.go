package fusefs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// ioctl numbers of include/uapi/linux/fs.h for 64-bit programs.
const (
	iocGetFlags   = unix.FS_IOC_GETFLAGS
	iocSetFlags   = unix.FS_IOC_SETFLAGS
	iocGetXflags  = 0x801c581f // FS_IOC_FSGETXATTR
	iocSetXflags  = 0x401c5820 // FS_IOC_FSSETXATTR
	iocGetLabel   = 0x81009431 // FS_IOC_GETFSLABEL
	iocSetLabel   = 0x41009432 // FS_IOC_SETFSLABEL
	iocTrim       = 0xc0185879 // FITRIM
	fsxattrBytes  = 28         // struct fsxattr
	fsLabelBytes  = 256        // FSLABEL_MAX
	trimBytes     = 24         // struct fstrim_range
	xflagHasXattr = 0x80000000 // FS_XFLAG_HASATTR: read-only
)

// errNotWritten means that the file was not written back, because too many requests wait for
// write-back.
var errNotWritten = errors.New("pages of the file may be dirty")

// xflags maps the flags of struct fsxattr (FS_XFLAG_*) to the flags of the FS.
var xflags = []struct{ x, flag uint32 }{
	{0x08, vfs.FlagImmutable},
	{0x10, vfs.FlagAppend},
	{0x40, vfs.FlagNoatime},
	{0x80, vfs.FlagNodump},
}

// Ioctl answers the common file system ioctls that the kernel passes on.
func (r *raw) Ioctl(cancel <-chan struct{}, in *fuse.IoctlIn, arg []byte, _ *fuse.IoctlOut, out []byte) fuse.Status {
	id := ino(in.NodeId)
	var err error
	switch in.Cmd {
	case iocGetFlags, iocSetFlags, iocGetXflags, iocSetXflags:
		fs, ok := r.fs.(vfs.Flagger)
		// Since Linux 5.13, the kernel sends these requests itself, without an argument
		// (fs/fuse/ioctl.c, fuse_fileattr_get and _set). It has checked the permission: only the
		// owner, and for immutable and append only with CAP_LINUX_IMMUTABLE. Earlier kernels pass
		// on the program's call unchecked, with its address.
		if !ok || in.Arg != 0 {
			return fuse.Status(syscall.ENOTTY)
		}
		err = r.flags(fs, in, arg, out)
	case iocGetLabel:
		err = r.getLabel(out)
	case iocSetLabel:
		err = r.setLabel(in, arg)
	case iocTrim:
		err = r.trim(cancel, in, arg, out)
	default:
		return fuse.Status(syscall.ENOTTY)
	}
	switch {
	case errors.Is(err, context.Canceled):
		return fuse.EINTR
	case errors.Is(err, errNotWritten):
		return fuse.EBUSY
	}
	return r.status("IOCTL", id, err)
}

// flags reads or sets the flags of an inode, for both forms of the ioctl.
func (r *raw) flags(fs vfs.Flagger, in *fuse.IoctlIn, arg, out []byte) error {
	id := ino(in.NodeId)
	switch in.Cmd {
	case iocSetFlags:
		if len(arg) < 4 {
			return vfs.ErrInvalid
		}
		return r.setFlags(fs, in, binary.NativeEndian.Uint32(arg))
	case iocSetXflags:
		flags, err := decodeXattr(arg)
		if err != nil {
			return err
		}
		return r.setFlags(fs, in, flags)
	}
	flags, err := fs.Flags(id)
	switch {
	case err != nil:
		return err
	case in.Cmd == iocGetFlags && len(out) >= 4:
		binary.NativeEndian.PutUint32(out, flags)
	case in.Cmd == iocGetXflags && len(out) >= fsxattrBytes:
		encodeXattr(flags, out[:fsxattrBytes])
	default:
		return vfs.ErrInvalid
	}
	return nil
}

// encodeXattr encodes flags as a struct fsxattr: xflags u32, extent size u32, extents u32, project
// u32, extent size for copies u32, 8 bytes.
func encodeXattr(flags uint32, out []byte) {
	clear(out)
	x := uint32(0)
	for _, f := range xflags {
		if flags&f.flag != 0 {
			x |= f.x
		}
	}
	binary.NativeEndian.PutUint32(out, x)
}

// decodeXattr decodes flags from a struct fsxattr. Projects and extent sizes are not supported.
func decodeXattr(b []byte) (flags uint32, err error) {
	if len(b) < fsxattrBytes {
		return 0, vfs.ErrInvalid
	}
	field := func(i int) uint32 { return binary.NativeEndian.Uint32(b[4*i:]) }
	rest := field(0) &^ xflagHasXattr
	for _, f := range xflags {
		if rest&f.x != 0 {
			flags |= f.flag
		}
		rest &^= f.x
	}
	if rest != 0 || field(1) != 0 || field(3) != 0 || field(4) != 0 {
		return 0, vfs.ErrNotSupported
	}
	return flags, nil
}

// setFlags sets the flags of an inode. It first makes the kernel write back data that was stored
// through mappings, because the FS may refuse it afterwards. Then the kernel must fetch the change
// time again.
func (r *raw) setFlags(fs vfs.Flagger, in *fuse.IoctlIn, flags uint32) error {
	if r.readOnly {
		return vfs.ErrReadOnly
	}
	id := ino(in.NodeId)
	old, err := fs.Flags(id)
	if err != nil {
		return err
	}
	if flags&^old&(vfs.FlagImmutable|vfs.FlagAppend) != 0 && !r.writeBack(id, 0, 0, vfs.ErrNoData) { // all pages
		return errNotWritten
	}
	if err := fs.SetFlags(request(&in.InHeader, 0), id, flags); err != nil {
		return err
	}
	if err := r.server.InvalInode(id, -1, 0); err != nil {
		r.log.Warn("cannot invalidate attributes", "inode", uint64(id), "error", err)
	}
	return nil
}

func (r *raw) getLabel(out []byte) error {
	label, err := vfs.Label(r.fs)
	if err != nil {
		return err
	}
	if len(label) >= len(out) {
		return vfs.ErrInvalid
	}
	clear(out)
	copy(out, label)
	return nil
}

// setLabel requires the permission to mount, as on other file systems. The kernel has checked
// nothing.
func (r *raw) setLabel(in *fuse.IoctlIn, arg []byte) error {
	if c := callerOf(&in.InHeader); !c.has(unix.CAP_SYS_ADMIN) {
		return vfs.ErrNotPermitted
	}
	if r.readOnly {
		return vfs.ErrReadOnly
	}
	label, _, ended := bytes.Cut(arg, []byte{0})
	if len(arg) != fsLabelBytes || !ended {
		return vfs.ErrInvalid
	}
	return vfs.SetLabel(r.fs, request(&in.InHeader, 0), string(label))
}

// trim implements FITRIM with struct fstrim_range: start u64, length u64, minimum u64. It sets the
// length to the number of discarded bytes. Killing the caller ends it.
func (r *raw) trim(cancel <-chan struct{}, in *fuse.IoctlIn, arg, out []byte) error {
	fs, ok := r.fs.(vfs.Trimmer)
	if !ok {
		return vfs.ErrNotSupported
	}
	if c := callerOf(&in.InHeader); !c.has(unix.CAP_SYS_ADMIN) {
		return vfs.ErrNotPermitted
	}
	if r.readOnly {
		return vfs.ErrReadOnly
	}
	if len(arg) < trimBytes || len(out) < trimBytes {
		return vfs.ErrInvalid
	}
	ctx, end := context.WithCancel(context.Background())
	defer end()
	go func() {
		select {
		case <-cancel:
			end()
		case <-ctx.Done():
		}
	}()
	r.server.park(1) // it takes long, and other requests need handlers
	defer r.server.park(-1)
	field := func(i int) uint64 { return binary.NativeEndian.Uint64(arg[8*i:]) }
	n, err := fs.TrimRange(ctx, field(0), field(1), field(2))
	if err != nil {
		return err
	}
	copy(out, arg[:trimBytes])
	binary.NativeEndian.PutUint64(out[8:], n)
	return nil
}
