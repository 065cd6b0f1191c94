package pinned

import (
	"fmt"
	"io"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// windowBytes bounds what one step of a read looks up, and so the memory that it takes. The store
// reads at most txn.ReadBytes at a time.
const windowBytes = 4 * txn.ReadBytes

// File is the content of a regular file in a State. It implements io.ReaderAt.
type File struct {
	s        *State
	ino      uint64
	size     uint64
	inline   []byte // content that the tree holds
	isInline bool
}

// Open opens a regular file for reading. There is nothing to close.
func (s *State) Open(ino uint64) (*File, error) {
	f, err := s.open(ino)
	return f, s.fail(err)
}

func (s *State) open(ino uint64) (*File, error) {
	n, err := s.live(ino)
	if err != nil {
		return nil, err
	}
	switch n.Mode & items.ModeType {
	case items.ModeReg:
	case items.ModeDir:
		return nil, fmt.Errorf("inode %d: %w", ino, vfs.ErrIsDir)
	default:
		return nil, fmt.Errorf("inode %d is not a regular file: %w", ino, vfs.ErrInvalid)
	}
	return s.file(ino, n)
}

func (s *State) file(ino uint64, n *layout.Inode) (*File, error) {
	f := &File{s: s, ino: ino, size: n.Size, isInline: n.Flags&layout.InodeInline != 0}
	if !f.isInline {
		return f, nil
	}
	val, ok, err := s.tree.Get(items.InlineKey(ino), nil)
	if err == nil && (!ok || uint64(len(val)) != n.Size || n.Size > layout.MaxInline) {
		err = fmt.Errorf("%w: %d bytes are in the tree, the size is %d", layout.ErrCorrupt, len(val), n.Size)
	}
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", ino, err)
	}
	f.inline = val
	return f, nil
}

// Size is the size of the file in bytes.
func (f *File) Size() uint64 { return f.size }

// ReadAt implements io.ReaderAt. Holes are zeros. Only verified bytes are returned: on an error, p
// is zeros.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("inode %d at %d: %w", f.ino, off, vfs.ErrInvalid)
	}
	return f.readAt(p, uint64(off))
}

// ReadAt reads a regular file, as File.ReadAt does.
func (s *State) ReadAt(ino uint64, p []byte, off uint64) (int, error) {
	f, err := s.open(ino)
	if err != nil {
		return 0, s.fail(err)
	}
	return f.readAt(p, off)
}

func (f *File) readAt(p []byte, off uint64) (n int, err error) {
	want := len(p)
	if off >= f.size {
		p = nil
	} else if left := f.size - off; uint64(want) > left {
		p = p[:left]
	}
	for n < len(p) {
		// Steps end at a multiple of a block, so that no block is read twice.
		at := off + uint64(n)
		step := min(len(p)-n, int(windowBytes-at%windowBytes))
		if err := f.window(p[n:n+step], at); err != nil {
			clear(p)
			return 0, f.s.fail(fmt.Errorf("inode %d at %d: %w", f.ino, at, err))
		}
		n += step
	}
	if n < want {
		return n, io.EOF
	}
	return n, nil
}

// window reads all of p, which is within the file.
func (f *File) window(p []byte, off uint64) error {
	clear(p)
	if f.isInline {
		copy(p, f.inline[off:])
		return nil
	}
	const block = layout.BlockBytes
	end := off + uint64(len(p))
	first, last := off/block, (end+block-1)/block
	es, err := items.ScanExtents(f.s.tree.ScanFloor, f.ino, first, last, 0)
	if err != nil {
		return err
	}
	x := plan{off: off, dst: p}
	for i := range es {
		x.add(&es[i], max(first, es[i].Block), min(last, es[i].End()))
	}
	return x.run(f.s.v.store)
}

// plan is what a read must fetch from the device. Neighbours on the device are read together.
type plan struct {
	off   uint64 // of dst in the file
	dst   []byte
	runs  []txn.RunRead
	parts []part // blocks that the read covers only partly: the first, the last
}

type part struct {
	block []byte
	from  int // in the block
	dst   []byte
}

// add plans to read blocks [a, b) of an extent.
func (x *plan) add(e *items.Placed, a, b uint64) {
	const block = layout.BlockBytes
	end := x.off + uint64(len(x.dst))
	if a*block < x.off || (a+1)*block > end {
		x.addPart(e, a)
		a++
	}
	tail := a < b && b*block > end
	if tail {
		b--
	}
	if a < b {
		x.runs = append(x.runs, txn.RunRead{Record: &e.Record, From: int(a - e.Block), Count: int(b - a), Dst: x.dst[a*block-x.off : b*block-x.off]})
	}
	if tail {
		x.addPart(e, b)
	}
}

func (x *plan) addPart(e *items.Placed, a uint64) {
	const block = layout.BlockBytes
	end := x.off + uint64(len(x.dst))
	from := max(x.off, a*block)
	buf := make([]byte, block)
	x.runs = append(x.runs, txn.RunRead{Record: &e.Record, From: int(a - e.Block), Count: 1, Dst: buf})
	x.parts = append(x.parts, part{block: buf, from: int(from % block), dst: x.dst[from-x.off : min(end, (a+1)*block)-x.off]})
}

func (x *plan) run(s *txn.Store) error {
	if err := s.ReadRuns(x.runs); err != nil {
		return err
	}
	for _, p := range x.parts {
		copy(p.dst, p.block[p.from:])
	}
	return nil
}
