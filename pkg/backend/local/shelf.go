package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/sealvol/sealvol/pkg/backend"
	"golang.org/x/sys/unix"
)

// shelf has the records of one kind: volumes or snapshots.
type shelf struct {
	disk
	prefix string
	ids    []string // sorted; only those in state ready. Guarded by Backend.mu.
}

// shelfOf returns the shelf of an id, and the base name of its record.
func (b *Backend) shelfOf(id string) (*shelf, string) {
	if hash, ok := hashOfID(snapPrefix, id); ok {
		return &b.snaps, hash
	}
	hash, _ := hashOfID(volPrefix, id)
	return &b.vols, hash
}

// notFound returns the error for a missing entry of a shelf.
func (s *shelf) notFound() error {
	if s.prefix == snapPrefix {
		return backend.ErrSnapshotNotFound
	}
	return backend.ErrNotFound
}

// load reads a record; it returns notFound if there is none.
func (b *Backend) load(s *shelf, hash string) (record, error) {
	raw, err := s.read(recordFile(hash), maxRecordBytes)
	if errors.Is(err, unix.ENOENT) {
		return record{}, s.notFound()
	}
	if err != nil {
		return record{}, err
	}
	return decodeRecord(raw, s.prefix, hash)
}

func (b *Backend) save(r record) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(raw) > maxRecordBytes {
		return fmt.Errorf("%w: the parameters are too long", backend.ErrInvalid)
	}
	s, hash := b.shelfOf(r.ID)
	if err := s.replace(recordFile(hash), raw); err != nil {
		b.unsure = true
		return err
	}
	return nil
}

// byID returns the record of a ready volume.
func (b *Backend) byID(id string) (record, error) { return b.onShelf(&b.vols, id) }

func (b *Backend) onShelf(s *shelf, id string) (record, error) {
	hash, ok := hashOfID(s.prefix, id)
	if !ok {
		return record{}, s.notFound()
	}
	r, err := b.load(s, hash)
	if err != nil {
		return record{}, err
	}
	if r.ID != id || r.State != ready {
		return record{}, s.notFound()
	}
	return r, nil
}

// index adds an id to the index; false if it is there already.
func (b *Backend) index(r record) bool {
	s, _ := b.shelfOf(r.ID)
	var added bool
	if s.ids, added = insert(s.ids, r.ID); added && s == &b.snaps {
		b.of[r.Source.Volume], _ = insert(b.of[r.Source.Volume], r.ID)
	}
	return added
}

func (b *Backend) unindex(r record) {
	s, _ := b.shelfOf(r.ID)
	i, found := slices.BinarySearch(s.ids, r.ID)
	if !found {
		return
	}
	s.ids = slices.Delete(s.ids, i, i+1)
	b.promised -= r.SizeBytes
	if s == &b.snaps {
		of := b.of[r.Source.Volume]
		if i, found := slices.BinarySearch(of, r.ID); found {
			of = slices.Delete(of, i, i+1)
		}
		if b.of[r.Source.Volume] = of; len(of) == 0 {
			delete(b.of, r.Source.Volume)
		}
	}
}
