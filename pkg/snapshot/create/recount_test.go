package create

import (
	"context"
	"errors"
	"testing"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/pack"
)

// sink puts pages into a store.
type sink struct{ store chunkstore.Store }

func (sink) Snapshot() format.ID { return format.ID{1} }
func (sink) Attempt() format.ID  { return format.ID{2} }
func (s sink) Put(ctx context.Context, c format.Class, data []byte, sum format.Sum) (format.Name, error) {
	n := format.Name{Class: c, Attempt: s.Attempt(), Sum: sum}
	_, err := s.store.Put(ctx, n.Key(), data)
	return n, err
}

// TestUsedNotListed: references that the list does not cover are found, instead of a panic or of a
// snapshot whose packs are deleted.
func TestUsedNotListed(t *testing.T) {
	store := chunkstore.NewMemory()
	b := pack.NewBuilder(nil)
	for _, n := range []uint16{1, 8, 9} {
		b.Add(format.PackEntry{Number: b.Reserve(), Name: format.Name{Class: format.Pack, Attempt: format.ID{2}, Sum: format.Sum{byte(n)}}, Bytes: 1000, Slots: n})
	}
	h := &format.Head{}
	if err := b.Finish(t.Context(), sink{store}, nil, h); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		pack uint32
		slot uint16
		want error
	}{{0, 0, nil}, {1, 7, nil}, {2, 8, nil}, {0, 1, pack.ErrDamaged}, {1, 8, pack.ErrDamaged}, {2, 9, pack.ErrDamaged}, {2, 4095, pack.ErrDamaged}, {3, 0, pack.ErrNoPack}} {
		u := used{}
		r := selfenc.PackedRef{Pack: c.pack, Slot: c.slot, Stored: 20}
		u.add(&r)
		if err := u.check(t.Context(), pack.NewList(store, h), len(h.Pages)); !errors.Is(err, c.want) {
			t.Errorf("pack %d, slot %d: %v", c.pack, c.slot, err)
		}
	}
}
