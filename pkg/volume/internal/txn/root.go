package txn

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

var (
	// ErrNoRoot means that no root slot verifies under the keys.
	ErrNoRoot = errors.New("no root slot verifies")
	// ErrTwoRoots means that both copies of the newest root verify, but differ. No volume writes
	// that.
	ErrTwoRoots = errors.New("two different roots have the same generation: the device was assembled from two copies")
)

// CopyState is the state of one of the two copies in a root slot.
type CopyState int

// The states of a copy. All but CopyGood and CopyForked are repaired from the other copy.
const (
	CopyGood  CopyState = iota
	CopyBlank           // zeros: never written, by a version without second copies
	CopyOld             // an older root
	CopyBad             // it does not verify
	CopyUnread
	CopyForked // another root of the same generation
)

func (c CopyState) String() string {
	return [...]string{"whole", "blank", "an older root", "does not verify", "cannot be read", "another root of the same generation"}[c]
}

// FoundRoot is the root in a slot: the newest of its copies that verify.
type FoundRoot struct {
	Slot   int
	Root   *layout.Root
	R      [32]byte // hash of its plaintext
	Copies [layout.RootCopies]CopyState
	sealed []byte
}

// ReadRoots returns the roots of all slots that verify, the newest first, and the slots that are
// not empty and do not verify. It fails if a slot that may hold a newer root cannot be read.
func (s *Store) ReadRoots() (roots []FoundRoot, bad []int, err error) {
	roots, bad, unread := s.readSlots()
	if len(roots) == 0 {
		if err := errors.Join(unread[:]...); err != nil {
			return nil, bad, err
		}
		return nil, bad, ErrNoRoot
	}
	if roots[0].Copies[1] == CopyForked {
		return nil, bad, fmt.Errorf("%w (generation %d)", ErrTwoRoots, roots[0].Root.Generation)
	}
	// A slot without a verifying copy was never announced, or both copies are damaged. A slot that
	// cannot be read may hold anything.
	if err := unread[(roots[0].Root.Generation+1)%layout.RootSlots]; err != nil {
		return nil, bad, err
	}
	return roots, bad, nil
}

func (s *Store) readSlots() (roots []FoundRoot, bad []int, unread [layout.RootSlots]error) {
	for slot := range layout.RootSlots {
		f, blank, err := s.readSlot(slot)
		switch {
		case f.Root != nil:
			roots = append(roots, f)
		case !blank:
			bad, unread[slot] = append(bad, slot), err
		}
	}
	slices.SortFunc(roots, func(a, b FoundRoot) int { return cmp.Compare(b.Root.Generation, a.Root.Generation) })
	return roots, bad, unread
}

// readSlot reads both copies of a slot. f.Root is nil if none verifies. Then blank means that both
// are empty, and err that one cannot be read.
func (s *Store) readSlot(slot int) (f FoundRoot, blank bool, err error) {
	f.Slot, blank = slot, true
	var plains [layout.RootCopies][]byte
	var roots [layout.RootCopies]*layout.Root
	for n := range layout.RootCopies {
		b := device.AlignedBytes(layout.BlockBytes)
		if rerr := s.readAt(b, uint64(layout.RootCopyOff(slot, n))); rerr != nil {
			f.Copies[n], blank = CopyUnread, false
			err = errors.Join(err, fmt.Errorf("root slot %d: %w", slot, rerr))
			continue
		}
		if allZero(b) {
			f.Copies[n] = CopyBlank
			continue
		}
		blank = false
		f.Copies[n] = CopyBad
		if roots[n], plains[n] = s.openSlot(slot, b); roots[n] == nil {
			continue
		}
		f.Copies[n] = CopyGood
		if f.Root == nil || roots[n].Generation > f.Root.Generation {
			f.Root, f.R, f.sealed = roots[n], crypto.RootHash(plains[n]), b
		}
	}
	for n, r := range roots {
		switch {
		case r == nil:
		case r.Generation < f.Root.Generation:
			f.Copies[n] = CopyOld
		case n > 0 && roots[0] != nil && f.Copies[0] == CopyGood && !bytes.Equal(plains[0], plains[n]):
			f.Copies[n] = CopyForked
		}
	}
	return f, blank, err
}

func (s *Store) openSlot(slot int, sealed []byte) (*layout.Root, []byte) {
	plain := make([]byte, crypto.RootBytes)
	ok := false
	s.Keys.All(func(k *crypto.EpochKeys) bool {
		ok = k.OpenRoot(uint8(slot), sealed, plain) == nil
		return ok
	})
	if !ok {
		return nil, nil
	}
	r, err := layout.DecodeRoot(plain)
	if err != nil || r.Generation%layout.RootSlots != uint64(slot) {
		return nil, nil
	}
	return r, plain
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// WriteRoot ends a commit (I2): barrier, both copies of the slot, barrier. An interruption may
// leave either copy torn, or both; then the root was never announced. After the second barrier, no
// single damaged place hides it.
func (s *Store) WriteRoot(r *layout.Root) (hash [32]byte, err error) {
	if err := s.Sync(); err != nil {
		return hash, err
	}
	s.rootMu.Lock()
	defer s.rootMu.Unlock()
	plain := r.Encode()
	slot := int(r.Generation % layout.RootSlots)
	b := device.AlignedBytes(layout.BlockBytes)
	if err := s.Keys.Newest().SealRoot(uint8(slot), plain, b); err != nil {
		return hash, fmt.Errorf("seal root: %w", err)
	}
	for n := range layout.RootCopies {
		if err := s.Write(b, uint64(layout.RootCopyOff(slot, n))); err != nil {
			return hash, err
		}
	}
	return crypto.RootHash(plain), s.Sync()
}

// MendedRoot is a copy of a root that was repaired, or could not be.
type MendedRoot struct {
	FoundRoot
	Copy int
	Err  error // why the repair failed; nil: it is intact again
}

// Was is the state of the copy before.
func (m *MendedRoot) Was() CopyState { return m.Copies[m.Copy] }

// RootsReport is the result of MendRoots.
type RootsReport struct {
	Roots  []FoundRoot // those that verify, the newest first
	Bad    []int       // slots of which no copy verifies
	Mended []MendedRoot
	Bytes  int // bytes read
}

// MendRoots reads all root slots while no root is written. Unless write is false, it rewrites each
// damaged copy with the bytes of its intact one. That is safe in a crash: the intact copy is not
// touched, the overwritten one is of no use, and the new one is durable before MendRoots returns.
// No root in that slot can be newer than the intact copy, because none is being written.
func (s *Store) MendRoots(write bool) *RootsReport {
	s.rootMu.Lock()
	defer s.rootMu.Unlock()
	rep := &RootsReport{Bytes: layout.RootSlots * layout.RootCopies * layout.BlockBytes}
	rep.Roots, rep.Bad, _ = s.readSlots()
	for i := range rep.Roots {
		f := &rep.Roots[i]
		for n, state := range f.Copies {
			if state == CopyGood || state == CopyForked { // evidence, not damage
				continue
			}
			m := MendedRoot{FoundRoot: *f, Copy: n}
			if write {
				m.Err = s.Mend(f.sealed, uint64(layout.RootCopyOff(f.Slot, n)))
			}
			rep.Mended = append(rep.Mended, m)
		}
	}
	return rep
}

// Mend writes sealed bytes to the place of a damaged copy, and reads them back.
func (s *Store) Mend(sealed []byte, addr uint64) error {
	if err := s.Write(sealed, addr); err != nil {
		return err
	}
	if err := s.Sync(); err != nil {
		return err
	}
	b := device.AlignedBytes(len(sealed))
	if err := s.readAt(b, addr); err != nil {
		return err
	}
	if !bytes.Equal(b, sealed) {
		return fmt.Errorf("%w: %d bytes written at %d read back differently", ErrDevice, len(b), addr)
	}
	return nil
}
