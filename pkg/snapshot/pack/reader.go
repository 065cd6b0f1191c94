package pack

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// ErrDamaged is about a pack whose bytes are not those that were stored.
var ErrDamaged = errors.New("the store returned other bytes than were stored")

// Reader reads chunks by their references. Safe for concurrent use.
type Reader struct {
	store chunkstore.Store
	keys  *crypto.TenantKeys
	list  *List
}

// NewReader returns a reader of a snapshot's chunks.
func NewReader(store chunkstore.Store, keys *crypto.TenantKeys, list *List) *Reader {
	return &Reader{store, keys, list}
}

// Open appends the payload of a chunk to dst. If r.Comp is not 0 the caller
// decompresses it to r.Length bytes and has crypto.TenantKeys.CheckChunk compare
// them. Errors name the pack and the store's reason.
func (d *Reader) Open(ctx context.Context, r *selfenc.PackedRef, dst []byte) ([]byte, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	e, err := d.list.Find(ctx, r.Pack)
	if err != nil {
		return nil, err
	}
	object, err := d.Range(ctx, &e, r.Offset, r.Stored, nil)
	if err != nil {
		return nil, err
	}
	return d.OpenObject(&e, r, object, dst)
}

// Range reads bytes of a pack: of one object, or of several that lie together. It uses room if that
// is large enough.
func (d *Reader) Range(ctx context.Context, e *format.PackEntry, off, n uint32, room []byte) ([]byte, error) {
	if uint64(off)+uint64(n) > uint64(e.Bytes) {
		return nil, fmt.Errorf("pack %d (%s): %w: it ends before byte %d", e.Number, e.Name, ErrDamaged, uint64(off)+uint64(n))
	}
	if uint64(cap(room)) < uint64(n) {
		room = make([]byte, n)
	}
	b := room[:n]
	if err := d.store.GetRange(ctx, e.Name.Key(), int64(off), b); err != nil {
		return nil, fmt.Errorf("pack %d: %w", e.Number, err)
	}
	return b, nil
}

// OpenObject opens an object that Range read.
func (d *Reader) OpenObject(e *format.PackEntry, r *selfenc.PackedRef, object, dst []byte) ([]byte, error) {
	out, err := d.keys.OpenPacked(&r.Ref, object, dst)
	if errors.Is(err, crypto.ErrAuthentication) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, fmt.Errorf("pack %d (%s), slot %d: %w", e.Number, e.Name, r.Slot, err)
	}
	return out, nil
}

// Check reads a whole pack and compares it with its name and entry: that takes
// no key.
func Check(ctx context.Context, store chunkstore.Store, e *format.PackEntry, room []byte) error {
	b, err := store.Get(ctx, e.Name.Key(), room, int(e.Bytes))
	if err != nil {
		return fmt.Errorf("pack %d: %w", e.Number, err)
	}
	bad := func(why string, args ...any) error {
		return fmt.Errorf("pack %d (%s): %w: %s", e.Number, e.Name, ErrDamaged, fmt.Sprintf(why, args...))
	}
	if len(b) != int(e.Bytes) || format.SumOf(b) != e.Name.Sum {
		return bad("its %d bytes have another hash than its name", len(b))
	}
	h, slots, err := format.DecodePack(b)
	switch {
	case err != nil:
		return bad("%v", err)
	case h.Attempt != e.Name.Attempt || len(slots) != int(e.Slots):
		return bad("attempt %s, %d slots; the list says %d", h.Attempt, len(slots), e.Slots)
	}
	return nil
}
