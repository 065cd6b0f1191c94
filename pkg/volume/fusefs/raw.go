package fusefs

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

const (
	// The server is the only writer, so the kernel may cache entries and attributes.
	cacheTime = time.Hour

	// The preferred I/O size in stat: the kernel's page size.
	blockBytes = 4096

	statxBtime = 0x800 // STATX_BTIME, include/uapi/linux/stat.h
	statxBasic = 0x7ff // STATX_BASIC_STATS

	capabilityXattr = "security.capability"
)

// raw answers the decoded requests. Each method decodes the rest of a request, calls the FS once
// and encodes the answer. File and directory operations are in file.go and dir.go, attributes in
// attr.go.
type raw struct {
	fs          vfs.FS
	server      *Server // to notify the kernel
	log         *slog.Logger
	damaged     func(vfs.Ino) // nil if damage is not reported
	readOnly    bool
	refs        *refs
	suid        suidSet
	kernelFlags uint64        // what INIT offered; set before any other request
	paged       chan struct{} // limits the requests that wait for pages of the kernel

	failMu     sync.Mutex
	failSecond int64 // guarded by failMu: the Unix time of the counted failures
	failCount  int64 // guarded by failMu
}

func newRaw(o Options, s *Server) *raw {
	return &raw{fs: o.FS, server: s, log: o.Logger, damaged: o.Damaged, readOnly: o.ReadOnly, refs: newRefs(o.FS),
		paged: make(chan struct{}, max(1, o.MaxHandlers/2))}
}

// go-fuse reserves one name in the root directory for a workaround that this server does not need
// (fuse/poll.go). For requests with that name, hideFromPollHack replaces the node id of the root by
// another one. go-fuse passes it on, and ino translates it back. No inode has the node id that
// go-fuse assigns to that name, but a made-up file handle may contain it. It is translated to 0,
// which no inode has, either.
const (
	rootAlias     = 1 << 63
	pollHackInode = 1<<64 - 1
)

var pollHackName = []byte(".go-fuse-epoll-hack")

func hideFromPollHack(req []byte) {
	if binary.NativeEndian.Uint64(req[16:]) == pollHackInode {
		binary.NativeEndian.PutUint64(req[16:], 0)
	}
	if binary.NativeEndian.Uint64(req[16:]) == uint64(vfs.RootIno) && len(req) < pageBytes && bytes.Contains(req, pollHackName) {
		binary.NativeEndian.PutUint64(req[16:], rootAlias)
	}
}

func ino(nodeID uint64) vfs.Ino {
	if nodeID == rootAlias {
		return vfs.RootIno
	}
	return vfs.Ino(nodeID)
}

// request returns the description of a request for the FS. On idmapped mounts, the ids are valid
// only if the request creates an inode, and they are used only then.
func request(h *fuse.InHeader, umask uint32) *vfs.Req {
	return &vfs.Req{Unique: h.Unique &^ resendBit, UID: h.Uid, GID: h.Gid, Umask: umask}
}

// attr encodes a for the kernel, and records suid and sgid files.
func (r *raw) attr(a *vfs.Attr, out *fuse.Attr) {
	*out = fuse.Attr{
		Ino:       uint64(a.Ino),
		Size:      a.Size,
		Blocks:    a.Blocks,
		Atime:     uint64(a.Atime.Sec),
		Atimensec: a.Atime.Nsec,
		Mtime:     uint64(a.Mtime.Sec),
		Mtimensec: a.Mtime.Nsec,
		Ctime:     uint64(a.Ctime.Sec),
		Ctimensec: a.Ctime.Nsec,
		Mode:      a.Mode,
		Nlink:     a.Nlink,
		Owner:     fuse.Owner{Uid: a.UID, Gid: a.GID},
		Rdev:      a.Rdev,
		Blksize:   blockBytes,
	}
	if a.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return
	}
	if a.Mode&(syscall.S_ISUID|syscall.S_ISGID) != 0 {
		r.suid.add(a.Ino)
	}
	out.Blocks = blocks(a)
}

func (r *raw) entry(a *vfs.Attr, out *fuse.EntryOut) {
	out.NodeId = uint64(a.Ino) // inode numbers are never reused, so the generation is always 0
	out.SetEntryTimeout(cacheTime)
	out.SetAttrTimeout(cacheTime)
	r.attr(a, &out.Attr)
}

// created answers a request that created a, or added a name to it. The answer counts as a lookup.
func (r *raw) created(op string, parent vfs.Ino, begun uint64, a vfs.Attr, err error, out *fuse.EntryOut) fuse.Status {
	if err != nil {
		return r.status(op, parent, err)
	}
	if !r.refs.hold(a.Ino, begun) {
		return fuse.Status(syscall.ESTALE)
	}
	r.entry(&a, out)
	return fuse.OK
}

func (r *raw) String() string                                     { return "sealvol" }
func (r *raw) SetDebug(bool)                                      {}
func (r *raw) Init(*fuse.Server)                                  {} // never called by ProtocolServer
func (r *raw) OnUnmount()                                         {} // the same
func (r *raw) Forget(nodeID, n uint64)                            { r.forget(vfs.Ino(nodeID), n) }
func (r *raw) Release(<-chan struct{}, *fuse.ReleaseIn)           {} // only after TMPFILE: nothing to release
func (r *raw) ReleaseDir(*fuse.ReleaseIn)                         {}
func (r *raw) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS } // the kernel checks permissions

// Flush at close(2) has nothing to do. With ENOSYS, the kernel does not send it again.
func (r *raw) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// The kernel handles locks itself, so these requests are never sent.
func (r *raw) GetLk(<-chan struct{}, *fuse.LkIn, *fuse.LkOut) fuse.Status { return fuse.ENOSYS }
func (r *raw) SetLk(<-chan struct{}, *fuse.LkIn) fuse.Status              { return fuse.ENOSYS }
func (r *raw) SetLkw(<-chan struct{}, *fuse.LkIn) fuse.Status             { return fuse.ENOSYS }

func (r *raw) forget(ino vfs.Ino, n uint64) {
	if ino == vfs.RootIno {
		return
	}
	if r.refs.drop(ino, n) {
		r.suid.remove(ino)
	}
}

func (r *raw) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	st := r.fs.StatFS()
	*out = fuse.StatfsOut{
		Blocks:  st.Blocks,
		Bfree:   st.BlocksFree,
		Bavail:  st.BlocksAvail,
		Files:   st.Inodes,
		Ffree:   st.InodesFree,
		Bsize:   st.BlockSize,
		Frsize:  st.BlockSize,
		NameLen: st.NameMax,
	}
	return fuse.OK
}
