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

// Data that a program stores through a mapping stays in the kernel until the kernel writes it back,
// within half a minute. Until then, the FS does not have the latest contents of the file. Before
// READ with O_DIRECT, FALLOCATE and COPY_FILE_RANGE, the kernel writes back. This file handles the
// requests for which it does not.

// maxSeekTurns limits how often SEEK_HOLE starts again because the found hole contained mapped
// data.
const maxSeekTurns = 16

// minBlocks is the minimum number of 512-byte blocks that is reported for a file that is not empty.
// GNU tar assumes that a file without blocks is one hole, and does not read it.
const minBlocks = blockBytes / 512

// blocks returns st_blocks.
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
		return fuse.EINVAL // the kernel handles the others itself
	}
	off, err := seek(ino(in.NodeId), in.Offset)
	out.Offset = off
	return r.status("LSEEK", ino(in.NodeId), err)
}

// seekData makes the kernel write back its pages of the hole at off, and then searches again.
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

// seekHole makes the kernel write back its pages of the hole that was found. If there is no hole
// afterwards, it starts again.
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

// allData answers a seek from off like a file system without holes. So no copy can lose data.
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

// writeBack makes the kernel write back and drop its pages of [from, to), or up to the end of the
// file if toErr is set. It returns false if too many requests already wait for this: each occupies
// a handler, and the pages arrive as requests that need handlers, too.
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

// noGrowth means that a request does not enlarge the file.
const noGrowth = ^uint64(0)

// beforeGrowth returns the size of a file before a request that may enlarge it, or noGrowth if the
// request cannot. The kernel prevents other changes of the size meanwhile.
func (r *raw) beforeGrowth(id vfs.Ino, may bool) uint64 {
	if !may {
		return noGrowth
	}
	a, err := r.fs.GetAttr(id)
	if err != nil {
		return noGrowth // the request will get the same error
	}
	return a.Size
}

// zeroTail clears the kernel's cached bytes from old, the previous end of the file, to until or the
// end of old's page. A program may have stored bytes there through a mapping. They are not content,
// but the kernel would make them content when the file grows. The request is answered afterwards.
//
// The notification waits for the lock of the page, which may be held by a READ that no handler has
// read yet. If too many handlers already wait for pages, this handler continues with other
// requests, and the answer follows later.
func (r *raw) zeroTail(h *fuse.InHeader, id vfs.Ino, old, until uint64) {
	if old == noGrowth || until <= old || old == pageStart(old) {
		return
	}
	end := min(until, pageStart(old)+pageSize)
	store := func() {
		defer func() { <-r.paged }()
		if err := r.server.store(id, old, make([]byte, end-old)); err != nil {
			r.log.Warn("cannot clear cached bytes beyond the end of a file", "inode", uint64(id), "error", err)
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

// pageSize is the size of a page of a mapping.
var pageSize = uint64(os.Getpagesize())

// pageStart returns the start of the page that contains off. A WRITE clears only up to there. It
// does not clear its first page, because the kernel may hold the lock of that page until the
// answer. So if a write begins in the last page, after the end of the file, stored bytes between
// the end and the write remain.
func pageStart(off uint64) uint64 { return off - off%pageSize }

// Files returns the regular files that the kernel knows, including those without a name. If another
// process opens and closes such a file, the kernel writes back data that was stored through
// mappings.
func (s *Server) Files() (list []vfs.Ino) {
	for _, id := range s.raw.refs.all() {
		if a, err := s.raw.fs.GetAttr(id); err == nil && a.Mode&syscall.S_IFMT == syscall.S_IFREG {
			list = append(list, id)
		}
	}
	return list
}

// WriteBack makes the kernel write back data that was stored through mappings of any file, and drop
// its cache. It is for callers that cannot open files by inode.
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
