package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// The maximum number of bytes that one COPY_FILE_RANGE copies. It limits the duration of a request.
// The caller repeats the call for the rest.
const maxCopyBytes = 16 << 20

// Open is answered with ENOSYS. After that, the kernel opens files without a request, keeps data
// cached, and sends no RELEASE. O_TRUNC arrives as SETATTR.
func (r *raw) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if r.kernelFlags&fuse.CAP_NO_OPEN_SUPPORT != 0 {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// Create is answered with ENOSYS. The kernel then sends MKNOD, and nothing at close.
func (r *raw) Create(<-chan struct{}, *fuse.CreateIn, string, *fuse.CreateOut) fuse.Status {
	return fuse.ENOSYS
}

func (r *raw) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	if r.readOnly {
		return fuse.EROFS
	}
	begun := r.refs.begin()
	a, err := r.fs.Tmpfile(request(&in.InHeader, in.Umask), ino(in.NodeId), in.Mode&0o7777)
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return r.created("TMPFILE", ino(in.NodeId), begun, a, err, &out.EntryOut)
}

// filled is a fuse.ReadResult of bytes that are already in the buffer of the answer.
type filled int

func (f filled) Size() int                              { return int(f) }
func (f filled) Done()                                  {}
func (f filled) Bytes(buf []byte) ([]byte, fuse.Status) { return buf[:f], fuse.OK }
func (f filled) Readv([][]byte) (int, fuse.Status)      { return int(f), fuse.OK }

func (r *raw) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n, err := r.fs.Read(ino(in.NodeId), in.Offset, buf[:in.Size])
	if err != nil {
		return nil, r.status("READ", ino(in.NodeId), err)
	}
	return filled(n), fuse.OK
}

// Writev gets the data as one slice, because the request buffer is contiguous.
func (r *raw) Writev(_ <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if r.readOnly {
		return 0, fuse.EROFS
	}
	id := ino(in.NodeId)
	kill := in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0
	req := request(&in.InHeader, 0)
	// Writes from the kernel's cache come without a file. They are data that was stored through
	// mappings, which an append-only file refuses, or appended data if the kernel caches writes.
	req.Append = in.Flags&unix.O_APPEND != 0 || in.WriteFlags&fuse.WRITE_CACHE != 0
	grow := r.beforeGrowth(id, in.WriteFlags&fuse.WRITE_CACHE == 0 && in.Offset > 0)
	done := 0
	for _, d := range data {
		n, err := r.fs.Write(req, id, in.Offset+uint64(done), d, kill)
		done += n
		if err != nil && done == 0 {
			return 0, r.status("WRITE", id, err)
		}
		if err != nil || n < len(d) {
			break // the caller sees a short write, and gets the error at the next write
		}
	}
	if kill {
		r.killedByWrite(id)
	}
	r.zeroTail(&in.InHeader, id, grow, pageStart(in.Offset))
	return uint32(done), fuse.OK
}

func (r *raw) Write(c <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return r.Writev(c, in, [][]byte{data})
}

func (r *raw) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if r.readOnly {
		return fuse.EROFS
	}
	id := ino(in.NodeId)
	grow := r.beforeGrowth(id, in.Mode&vfs.FallocKeepSize == 0)
	err := r.fs.Fallocate(request(&in.InHeader, 0), id, in.Mode, in.Offset, in.Length)
	if err == nil {
		r.zeroTail(&in.InHeader, id, grow, in.Offset+in.Length)
		err = r.killPrivileges(&in.InHeader, id)
	}
	return r.status("FALLOCATE", id, err)
}

func (r *raw) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	if r.readOnly {
		return 0, fuse.EROFS
	}
	dst := vfs.Ino(in.NodeIdOut)
	grow := r.beforeGrowth(dst, in.OffOut > 0)
	n, err := r.fs.CopyRange(request(&in.InHeader, 0), ino(in.NodeId), in.OffIn, dst, in.OffOut, min(in.Len, maxCopyBytes))
	if err == nil && n > 0 {
		r.zeroTail(&in.InHeader, dst, grow, in.OffOut)
		err = r.killPrivileges(&in.InHeader, dst)
	}
	return uint32(n), r.status("COPY_FILE_RANGE", dst, err)
}

func (r *raw) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return r.status("FSYNC", ino(in.NodeId), r.fs.Sync(ino(in.NodeId)))
}
