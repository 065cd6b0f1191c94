package snapstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// Store is a snapshot store.
type Store struct {
	objects chunkstore.Store
	desc    format.Store
	id      format.ID
}

// Defaults of Options.
const (
	DefaultChunkBytes = 64 << 10
	DefaultPackBytes  = 16 << 20
)

// Options describe a new store. The zero value is good.
type Options struct {
	// Eventual: a listing may lag behind a put. Nil: as the store says of itself.
	Eventual *bool
	// ChunkBytes and PackBytes are what writers use. 0: the defaults.
	ChunkBytes, PackBytes int
}

// OpenChunks opens the chunk store of a URL for snapshots: in one with object lock, what protocols
// replace and delete is not locked. o.Transient is not used.
func OpenChunks(ctx context.Context, url string, o chunkstore.OpenOptions) (chunkstore.Store, error) {
	o.Transient = Transient
	return chunkstore.OpenWith(ctx, url, o)
}

// Transient reports whether an object is of no use to a reader, so that no lock protects it: leases,
// tombs, verdicts, records of pruners.
func Transient(key string) bool {
	folder, _, _ := strings.Cut(key, "/")
	switch folder + "/" {
	case format.LeasePrefix, format.GCPrefix, format.ClockKey + "/", format.ProbeKey + "/":
		return true
	}
	_, part, err := format.ParseSnapKey(key)
	_, _, decides := format.ParseTomb(part)
	return err == nil && decides
}

// Open reads the description of a store. ErrNoStore, ErrNewer.
func Open(ctx context.Context, objects chunkstore.Store) (*Store, error) {
	b, err := objects.Get(ctx, format.StoreKey, nil, format.MaxStoreBytes)
	switch {
	case errors.Is(err, chunkstore.ErrNotFound):
		return nil, fmt.Errorf("%w: it has no %s", ErrNoStore, format.StoreKey)
	case err != nil:
		return nil, err
	}
	s := &Store{objects: objects}
	if s.desc, err = format.DecodeStore(b); err == nil {
		s.id, err = format.ParseID(s.desc.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", format.StoreKey, err)
	}
	return s, nil
}

// Create makes a snapshot store of a chunk store. If it is one already, created is false, and the
// store stays as it is.
func Create(ctx context.Context, objects chunkstore.Store, o Options) (s *Store, created bool, err error) {
	eventual := o.Eventual != nil && *o.Eventual
	if o.Eventual == nil {
		if eventual, err = chunkstore.IsEventual(objects); err != nil {
			return nil, false, err
		}
	}
	d := format.Store{Format: 1, ID: format.NewID().String(), Consistency: format.Strong, ChunkBytes: o.ChunkBytes, PackBytes: o.PackBytes}
	if eventual {
		d.Consistency = format.Eventual
	}
	if d.ChunkBytes == 0 {
		d.ChunkBytes = DefaultChunkBytes
	}
	if d.PackBytes == 0 {
		d.PackBytes = DefaultPackBytes
	}
	b, err := d.Encode()
	if err != nil {
		return nil, false, err
	}
	if created, err = objects.Put(ctx, format.StoreKey, b); err != nil {
		return nil, false, err
	}
	s, err = Open(ctx, objects) // also after a put: of two at once, one wins
	return s, created && err == nil && s.desc.ID == d.ID, err
}

// Objects returns the chunk store.
func (s *Store) Objects() chunkstore.Store { return s.objects }

// ID returns the identity that handles name.
func (s *Store) ID() format.ID { return s.id }

// Description returns what store.json says.
func (s *Store) Description() format.Store { return s.desc }

// Close closes the chunk store.
func (s *Store) Close() error { return s.objects.Close() }
