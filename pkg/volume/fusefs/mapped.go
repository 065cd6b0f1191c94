package fusefs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// What a program stores through a mapping lies in the kernel until the kernel writes it back, which
// it does within half a minute. Until then the FS knows less of the file than the kernel does. The
// requests that the kernel passes on without writing back first are dealt with here; before READ
// with O_DIRECT, FALLOCATE and COPY_FILE_RANGE it does write back.

// maxSeekTurns bounds how often SEEK_HOLE starts again because a hole was none.
const maxSeekTurns = 16

// minBlocks is what a file that is not empty has at least, in units of 512 bytes: GNU tar takes
// a file without blocks for one hole and does not read it.
const minBlocks = blockBytes / 512

// blocks is st_blocks.
func blocks(a *vfs.Attr) uint64 {
	if a.Mode&syscall.S_IFMT == syscall.S_IFREG && a.Size > 0 {
		return max(a.Blocks, minBlocks)
	}
	return a.Blocks
}

func (r *raw) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) (st fuse.Status) {
	seek := r.seekData
	switch in.Whence {
	case unix.SEEK_DATA:
	case unix.SEEK_HOLE:
		seek = r.seekHole
	default:
		return fuse.EINVAL // the kernel does the others
	}
	off, err := seek(ino(in.NodeId), in.Offset)
	out.Offset = off
	return r.status("LSEEK", ino(in.NodeId), err)
}

// seekData has the kernel write back what it holds of the hole at off, and then looks again.
func (r *raw) seekData(id vfs.Ino, off uint64) (uint64, error) {
	data, err := r.fs.SeekData(id, off)
	if err == nil && data == off || err != nil && !errors.Is(err, vfs.ErrNoData) || r.readOnly {
		return data, err
	}
	if !r.writeBack(id, off, data, err) {
		return r.allData(id, off, off)
	}
	return r.fs.SeekData(id, off)
}

// seekHole has the kernel write back what it holds of the hole that was found, and starts again if
// it was none.
func (r *raw) seekHole(id vfs.Ino, off uint64) (uint64, error) {
	for range maxSeekTurns {
		hole, err := r.fs.SeekHole(id, off)
		if err != nil && !errors.Is(err, vfs.ErrNoData) || r.readOnly {
			return hole, err
		}
		if err != nil {
			hole = off
		}
		data, dataErr := r.fs.SeekData(id, hole)
		if dataErr != nil && !errors.Is(dataErr, vfs.ErrNoData) {
			return 0, dataErr
		}
		if !r.writeBack(id, hole, data, dataErr) {
			break
		}
		again, err := r.fs.SeekHole(id, off)
		if err != nil || again == hole {
			return again, err
		}
	}
	a, err := r.fs.GetAttr(id)
	if err != nil {
		return 0, err
	}
	return r.allData(id, off, a.Size)
}

// allData answers a seek from off as file systems do that know no holes: no copy loses data by that.
func (r *raw) allData(id vfs.Ino, off, answer uint64) (uint64, error) {
	a, err := r.fs.GetAttr(id)
	if err != nil {
		return 0, err
	}
	if off >= a.Size {
		return 0, vfs.ErrNoData
	}
	return answer, nil
}

// writeBack has the kernel write back, and drop, the pages that it holds of [from, to); to the end
// of the file if toErr is set. It answers false if too many requests wait for that already: each
// occupies a handler, and the pages come as requests for others.
func (r *raw) writeBack(id vfs.Ino, from, to uint64, toErr error) bool {
	length := int64(0)
	if toErr == nil {
		length = int64(to - from)
	}
	select {
	case r.paged <- struct{}{}:
		defer func() { <-r.paged }()
	default:
		return false
	}
	if err := r.server.InvalInode(id, int64(from), length); err != nil {
		r.log.Warn("the kernel does not write back mapped pages", "inode", uint64(id), "error", err)
		return false
	}
	return true
}

// noGrowth says that a request makes no file larger.
const noGrowth = ^uint64(0)

// beforeGrowth is the size of a file before a request that may make it larger; noGrowth if it may
// not. The kernel lets nothing else change the size meanwhile.
func (r *raw) beforeGrowth(id vfs.Ino, may bool) uint64 {
	if !may {
		return noGrowth
	}
	a, err := r.fs.GetAttr(id)
	if err != nil {
		return noGrowth // the request meets it as well
	}
	return a.Size
}

// zeroTail clears what the kernel has cached from old, a file's end before, to until or the end of
// old's page. Programs may have stored something there through a mapping; it is not content, and
// the kernel would make it so when the file grows. The request is answered after that.
//
// Storing waits for who has the page locked, such as a READ that no handler has taken yet. If too
// many handlers wait for pages already, this one goes on with other requests, and the answer follows.
func (r *raw) zeroTail(h *fuse.InHeader, id vfs.Ino, old, until uint64) {
	if old == noGrowth || until <= old || old == pageStart(old) {
		return
	}
	end := min(until, pageStart(old)+pageSize)
	store := func() {
		defer func() { <-r.paged }()
		if err := r.server.store(id, old, make([]byte, end-old)); err != nil {
			r.log.Warn("cannot clear what lies beyond the end of a file", "inode", uint64(id), "error", err)
		}
	}
	select {
	case r.paged <- struct{}{}:
		store()
	default:
		r.server.answerAfter(h.Unique, func() {
			r.paged <- struct{}{}
			store()
		})
	}
}

// pageSize is that of a mapping's last page, what lies beyond the end of the file included.
var pageSize = uint64(os.Getpagesize())

// pageStart is the start of the page that off lies in. A WRITE clears up to there and leaves its
// first page alone, of which the kernel may hold the lock until the answer: so bytes beyond the end
// stay where a write begins in the last page itself, after the end.
func pageStart(off uint64) uint64 { return off - off%pageSize }

// Files is the regular files that the kernel knows, those without a name included. Opening and
// closing one (not in this process) has the kernel write back what was stored through mappings.
func (s *Server) Files() (list []vfs.Ino) {
	for _, id := range s.raw.refs.all() {
		if a, err := s.raw.fs.GetAttr(id); err == nil && a.Mode&syscall.S_IFMT == syscall.S_IFREG {
			list = append(list, id)
		}
	}
	return list
}

// WriteBack has the kernel write back what was stored through mappings of any file, and drop all
// that it has cached. It is for callers who cannot open files by inode.
func (s *Server) WriteBack(ctx context.Context) error {
	for _, id := range s.Files() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := s.InvalInode(id, 0, 0); err != nil {
			return fmt.Errorf("write back mapped files: %w", err)
		}
	}
	return nil
}
