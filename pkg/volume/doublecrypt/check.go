package doublecrypt

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

// CheckOptions are the options of Check.
type CheckOptions struct {
	Data     bool // also read the contents of files
	Progress func(done, total uint64)
}

// CheckReport is what Check found.
type CheckReport struct {
	Clean      bool
	Generation uint64
	Problems   []Problem // the first problems
	Total      int       // number of problems
	Notes      []Problem // not damage, but important to know
	Counts     CheckCounts
}

// CheckCounts are the numbers of inodes, names, extents and blocks that Check found.
type CheckCounts struct {
	Inodes, Names, Extents uint64
	UsedBlocks, FreeBlocks uint64
	BlockBytes             int
}

// Check reads a whole volume, and writes nothing. The report contains the damage. An error means
// that the volume could not be checked.
func Check(dev device.Device, key *crypto.DoublecryptKey, o CheckOptions) (*CheckReport, error) {
	f, err := find(dev, key, true)
	if err != nil {
		return nil, err
	}
	r := &CheckReport{Generation: f.used.pointer.generation}
	r.Counts.BlockBytes = f.blk.size
	f.notes(r)
	w := f.walk
	buf := f.blk.buffer(1)
	w.data = func(n *node, list []extent) {
		r.Counts.Extents += uint64(len(list))
		if o.Data {
			w.checkData(n, list, buf)
		}
		if o.Progress != nil {
			o.Progress(w.claimed, f.head.totalBlocks)
		}
	}
	w.tree(f.root)
	r.Notes = append(r.Notes, w.notes...)
	r.Problems, r.Total, r.Clean = w.problems, w.count, w.count == 0
	r.Counts.Inodes = uint64(len(w.nodes))
	r.Counts.Names = r.Counts.Inodes - 1
	for id := uint64(firstObject); id < f.head.totalBlocks; id++ {
		if w.used.has(id) {
			r.Counts.UsedBlocks++
		} else {
			r.Counts.FreeBlocks++
		}
	}
	return r, nil
}

func (r *CheckReport) note(where, format string, args ...any) {
	r.Notes = append(r.Notes, Problem{where, fmt.Sprintf(format, args...)})
}

func (f *found) notes(r *CheckReport) {
	where := "root slot " + slotName(f.used.slot)
	if f.fallback != nil {
		r.note("root slots", "the newer one does not verify (%v); the next mount uses the older one, generation %d", f.fallback, f.used.pointer.generation)
	}
	if g := f.super.generation; g != f.used.pointer.generation {
		r.note(where, "its generation is %d, but that of its superblock is %d: an old state may have been replayed", f.used.pointer.generation, g)
	}
	if f.head.totalBlocks < f.blk.count {
		r.note("header", "the volume uses %d of the device's %d blocks", f.head.totalBlocks, f.blk.count)
	}
	r.note("format", "format v1 does not protect against somebody who can write to the device: blocks may have been swapped or replayed")
}

// checkData decrypts every chunk of a file.
func (w *walker) checkData(n *node, list []extent, buf []byte) {
	for i := range list {
		e := &list[i]
		plain, err := w.blk.object(e.block, w.key, kindChunk, buf)
		want := min(w.chunk, n.size-e.index*w.chunk)
		if err == nil && uint64(min(len(plain), int(e.bytes))) < want {
			err = fmt.Errorf("%d bytes are missing; they read as zeros", want-uint64(min(len(plain), int(e.bytes))))
		}
		if err != nil {
			w.note(fmt.Sprintf("inode %d, bytes %d to %d", n.ino, e.index*w.chunk, e.index*w.chunk+want-1), err)
		}
	}
}
