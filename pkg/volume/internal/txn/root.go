package txn

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// ErrNoRoot means that no root slot verifies under the keys.
var ErrNoRoot = errors.New("no root slot verifies")

// FoundRoot is what a slot holds.
type FoundRoot struct {
	Slot int
	Root *layout.Root
	R    [32]byte // hash of its plaintext
}

// ReadRoots returns the roots of all slots that verify, the newest first, and
// the slots that hold something that does not. It fails if a slot that may hold
// a newer one can not be read.
func (s *Store) ReadRoots() (roots []FoundRoot, bad []int, err error) {
	b := device.AlignedBytes(layout.SectorBytes)
	plain := make([]byte, crypto.RootBytes)
	var unread [layout.RootSlots]error
	var anyErr error
	for slot := range layout.RootSlots {
		if err := s.readAt(b, uint64(layout.RootSlotOff(slot))); err != nil {
			err = fmt.Errorf("root slot %d: %w", slot, err)
			unread[slot], anyErr = err, err
			bad = append(bad, slot)
			continue
		}
		if allZero(b) {
			continue
		}
		ok := false
		s.Keys.All(func(k *crypto.EpochKeys) bool {
			ok = k.OpenRoot(uint8(slot), b, plain) == nil
			return ok
		})
		if !ok {
			bad = append(bad, slot)
			continue
		}
		r, err := layout.DecodeRoot(plain)
		if err != nil || r.Generation%layout.RootSlots != uint64(slot) {
			bad = append(bad, slot)
			continue
		}
		f := FoundRoot{Slot: slot, Root: r, R: crypto.RootHash(plain)}
		i := 0
		for i < len(roots) && roots[i].Root.Generation > r.Generation {
			i++
		}
		roots = append(roots[:i], append([]FoundRoot{f}, roots[i:]...)...)
	}
	if len(roots) == 0 {
		if anyErr != nil {
			return nil, bad, anyErr
		}
		return nil, bad, ErrNoRoot
	}
	// A slot that does not verify was never told to anybody, or the log knows. One
	// that can not be read may hold the newest root, today only perhaps.
	if err := unread[(roots[0].Root.Generation+1)%layout.RootSlots]; err != nil {
		return nil, bad, err
	}
	return roots, bad, nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// WriteRoot is the end of a commit (I2): barrier, slot, barrier.
func (s *Store) WriteRoot(r *layout.Root) (hash [32]byte, err error) {
	if err := s.Sync(); err != nil {
		return hash, err
	}
	plain := r.Encode()
	slot := int(r.Generation % layout.RootSlots)
	b := device.AlignedBytes(layout.SectorBytes)
	if err := s.Keys.Newest().SealRoot(uint8(slot), plain, b); err != nil {
		return hash, fmt.Errorf("seal root: %w", err)
	}
	if err := s.Write(b, uint64(layout.RootSlotOff(slot))); err != nil {
		return hash, err
	}
	return crypto.RootHash(plain), s.Sync()
}
