package txn

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// ErrMemory means that a volume needs more memory at once than the mount may use. Nothing is
// damaged.
var ErrMemory = errors.New("the mount's memory limit is too low: raise it (--memory)")

// Area is the range of blocks that can be allocated: [First, End).
type Area struct{ First, End uint64 }

// DataArea is the area of a root.
func DataArea(r *layout.Root) Area { return Area{r.DataStart(), r.DeviceBlocks} }

// Holds reports whether a run is inside the area.
func (a Area) Holds(r layout.Run) bool {
	return r.Start >= a.First && r.Start < a.End && uint64(r.Count) <= a.End-r.Start
}

// ListPiece is the place of a piece of a free list: whole node slots. The sealed bytes may fill
// less.
func ListPiece(p *layout.Pointer2) layout.Run {
	groups := (p.PaddedBytes() + layout.NodeBytes - 1) / layout.NodeBytes
	return layout.Run{Start: p.Addr / layout.BlockBytes, Count: uint32(groups) * layout.NodeBlocks}
}

// WalkFreeList calls fn for the pieces of a list. Whoever has the key can make a list of any
// length, and even a circular one (Poly1305 is not a collision-resistant hash). So the list's own
// fields bound nothing, but the device does: no two pieces share a place, each piece has a run, and
// all runs together have as many blocks as the root counts, which are no more than the device has.
func (s *Store) WalkFreeList(p *layout.Pointer2, in Area, fn func(piece layout.Run, runs []layout.Run) error) error {
	bad := func(at *layout.Pointer2, format string, args ...any) error {
		return fmt.Errorf("%w: free list, piece at %d: %s", layout.ErrCorrupt, at.Addr, fmt.Sprintf(format, args...))
	}
	if p.Blocks > in.End-in.First {
		return bad(p, "it counts %d blocks, but the volume has %d", p.Blocks, in.End-in.First)
	}
	seen := map[uint64]struct{}{} // node slots
	left := p.Blocks
	for at := *p; !at.IsZero(); {
		place := ListPiece(&at)
		if !in.Holds(place) || place.Start%layout.NodeBlocks != 0 {
			return bad(&at, "it is outside the data area, or not aligned to a node slot")
		}
		for g := place.Start; g < place.Start+uint64(place.Count); g += layout.NodeBlocks {
			if _, twice := seen[g]; twice {
				return bad(&at, "the list is circular: another piece has this address")
			}
			seen[g] = struct{}{}
		}
		runs, next, err := s.readPiece(&at)
		if err != nil {
			return fmt.Errorf("free list, piece at %d: %w", at.Addr, err)
		}
		for _, r := range runs {
			if !in.Holds(r) {
				return bad(&at, "run %d+%d is outside the data area", r.Start, r.Count)
			}
			if uint64(r.Count) > left {
				return bad(&at, "it exceeds the %d blocks that the root counts", p.Blocks)
			}
			left -= uint64(r.Count)
		}
		if len(runs) == 0 {
			return bad(&at, "it is empty")
		}
		if !next.IsZero() && next.Birth > at.Birth {
			return bad(&at, "the next piece has a later generation")
		}
		if err := fn(place, runs); err != nil {
			return err
		}
		at = next
	}
	if left > 0 {
		return bad(p, "%d of %d blocks are missing", left, p.Blocks)
	}
	return nil
}

func (s *Store) readPiece(at *layout.Pointer2) ([]layout.Run, layout.Pointer2, error) {
	b := device.AlignedBytes(at.PaddedBytes())
	if err := s.ReadRun(&at.Record, 0, 1, b); err != nil {
		return nil, layout.Pointer2{}, err
	}
	return layout.DecodeFreeList(b[:at.PLen])
}

// Memory that a list takes, in bytes: for each run, and for each piece its place and the entry of
// WalkFreeList.
const (
	listRunBytes   = 16
	listPieceBytes = 64
)

// ReadFreeList reads a whole list, and the places of its pieces. It returns ErrMemory if that takes
// more than maxBytes.
func (s *Store) ReadFreeList(p *layout.Pointer2, in Area, maxBytes int) (runs, pieces []layout.Run, err error) {
	err = s.WalkFreeList(p, in, func(place layout.Run, r []layout.Run) error {
		pieces, runs = append(pieces, place), append(runs, r...)
		if len(runs)*listRunBytes+len(pieces)*listPieceBytes > maxBytes {
			return fmt.Errorf("the free list has more than %d runs: %w", len(runs), ErrMemory)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return runs, pieces, nil
}
