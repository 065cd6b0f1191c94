package volume

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
)

func extentKey(ino, sector uint64) layout.Key {
	return layout.Key{Obj: ino, Type: layout.KeyExtent, Sub: sector}
}

// placed is an extent item with its key.
type placed struct {
	sector uint64
	layout.FileExtent
}

func (p *placed) end() uint64 { return p.sector + p.Sectors() }

// extents returns the extents of an inode that touch [from, to), at most limit
// (0: all) of them.
func (v *Volume) extents(ino, from, to uint64, limit int) ([]placed, error) {
	return scanExtents(v.fs.ScanFloor, ino, from, to, limit)
}

// scanExtents is extents by ScanFloor of a tree or, in a change of it, its writer.
func scanExtents(scan func(low, from, to layout.Key, fn func(k layout.Key, v []byte) bool) error, ino, from, to uint64, limit int) (out []placed, err error) {
	var derr error
	err = scan(extentKey(ino, 0), extentKey(ino, from), extentKey(ino, to-1), func(k layout.Key, val []byte) bool {
		if n := layout.ExtentSectors(val); n > 0 && k.Sub+n <= from {
			return true // ends before
		}
		e, err := layout.DecodeFileExtent(val)
		if err != nil {
			derr = err
			return false
		}
		if p := (placed{k.Sub, e}); p.end() > from {
			out = append(out, p)
		}
		return limit == 0 || len(out) < limit
	})
	if err == nil {
		err = derr
	}
	if err != nil {
		return nil, fmt.Errorf("inode %d: extents from sector %d: %w", ino, from, err)
	}
	return out, nil
}

// dropExtents removes what lies in [from, to), at most limit extents (0: all),
// splitting those that reach beyond. It returns the sectors that were
// released and whether all is done.
func (v *Volume) dropExtents(w *tree.Writer, ino, from, to uint64, limit int) (freed uint64, done bool, err error) {
	if from >= to {
		return 0, true, nil
	}
	hit, err := scanExtents(w.ScanFloor, ino, from, to, limit)
	if err != nil {
		return 0, false, err
	}
	for i := range hit {
		p := &hit[i]
		a, b := max(from, p.sector), min(to, p.end())
		if p.sector < a {
			left := layout.FileExtent{Record: p.Slice(0, int(a-p.sector)), RefBirth: p.RefBirth}
			if err := w.Put(extentKey(ino, p.sector), left.Append(nil)); err != nil {
				return freed, false, err
			}
		} else if _, err := w.Delete(extentKey(ino, p.sector)); err != nil {
			return freed, false, err
		}
		if b < p.end() {
			right := layout.FileExtent{Record: p.Slice(int(b-p.sector), int(p.end()-b)), RefBirth: p.RefBirth}
			if err := w.Put(extentKey(ino, b), right.Append(nil)); err != nil {
				return freed, false, err
			}
		}
		run := layout.Run{Start: p.Addr/layout.SectorBytes + (a - p.sector), Count: uint32(b - a)}
		if err := v.release(run, p.RefBirth); err != nil {
			return freed, false, err
		}
		freed += b - a
	}
	return freed, limit == 0 || len(hit) < limit, nil
}

// putExtent replaces what lies under an extent. It returns by how much the
// number of sectors of the inode changes.
func (v *Volume) putExtent(w *tree.Writer, ino, sector uint64, e *layout.FileExtent) (delta int64, err error) {
	freed, _, err := v.dropExtents(w, ino, sector, sector+e.Sectors(), 0)
	if err != nil {
		return 0, err
	}
	v.rot.met(e.Epoch)
	return int64(e.Sectors()) - int64(freed), w.Put(extentKey(ino, sector), e.Append(nil))
}

// release is told that the head dropped a reference to data, made in generation
// birth. What the newest snapshot holds goes to a dead list (deadlist.go). Inside
// v.fs.Update.
func (v *Volume) release(r layout.Run, birth uint64) error {
	if v.snap.keep(r, birth) {
		return nil
	}
	return v.dropReference(r)
}
