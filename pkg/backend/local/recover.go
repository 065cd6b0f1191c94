package local

import (
	"errors"
	"strings"

	"github.com/sealvol/sealvol/pkg/backend"
	"golang.org/x/sys/unix"
)

// recover builds the index and finishes what a crash interrupted.
func (b *Backend) recover() error {
	return errors.Join(b.recoverShelf(&b.vols), b.recoverShelf(&b.snaps))
}

func (b *Backend) recoverShelf(s *shelf) error {
	names, err := s.dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".tmp") {
			if err := s.remove(name); err != nil {
				return err
			}
			continue
		}
		hash, ok := strings.CutSuffix(name, ".json")
		if !ok || len(hash) != nameHash || !isHex(hash) {
			continue
		}
		r, err := b.load(s, hash)
		if errors.Is(err, backend.ErrDamaged) {
			continue // leave it: calls for this volume return an error, others work
		}
		if err != nil {
			return err
		}
		if err := b.recoverOne(r); err != nil {
			return err
		}
	}
	return nil
}

func (b *Backend) recoverOne(r record) error {
	if r.State != ready {
		return b.erase(r)
	}
	// Health and Device report a missing image; it must not make the other volumes unavailable.
	if err := b.images.extend(imageFile(r.ID), r.SizeBytes, false); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	b.index(r)
	b.promised += r.SizeBytes
	if r.Attachment != nil {
		b.attached++
	}
	return nil
}

// erase deletes a volume or snapshot in state creating or deleting.
func (b *Backend) erase(r record) error {
	s, hash := b.shelfOf(r.ID)
	err := b.images.remove(imageFile(r.ID))
	if err == nil && s == &b.vols {
		err = b.forgetFormat(r.ID)
	}
	if err == nil {
		err = s.remove(recordFile(hash))
	}
	if err != nil {
		b.unsure = true
	}
	return err
}
