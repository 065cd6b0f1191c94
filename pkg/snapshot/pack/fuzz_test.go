package pack

import (
	"context"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// FuzzEarlierPack is an Index on a pack of which the store made something else: it
// finds what the attempt stored, where it stored it, or nothing.
func FuzzEarlierPack(f *testing.F) {
	keys, store, attempt := tenant(f, 1), chunkstore.NewMemory(), format.ID{7}
	list := NewBuilder(nil)
	w, err := NewWriter(context.Background(), keys, &storeSink{store, attempt}, list, Options{PackBytes: minPackBytes})
	if err != nil {
		f.Fatal(err)
	}
	var refs []selfenc.PackedRef
	for i := range byte(3) {
		r, object, err := keys.SealPacked(1, crypto.ChunkKind(1+i), i, []byte("some chunk"), []byte("payload"), nil)
		if err != nil {
			f.Fatal(err)
		}
		ref, err := w.Add(context.Background(), &r, object)
		if err != nil {
			f.Fatal(err)
		}
		refs = append(refs, ref)
	}
	if _, err := w.Flush(context.Background()); err != nil {
		f.Fatal(err)
	}
	w.Close()
	name := list.added[0].Name
	b, err := store.Get(context.Background(), name.Key(), nil, 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:format.PackHeaderBytes])
	f.Fuzz(func(t *testing.T, b []byte) {
		store := chunkstore.NewMemory()
		if _, err := store.Put(t.Context(), name.Key(), b); err != nil {
			t.Fatal(err)
		}
		x, err := NewIndex(t.Context(), store, keys, testSnapshot, NewBuilder(nil), IndexOptions{Packs: map[format.Name]int64{name: int64(len(b))}})
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		for i := range refs {
			for kind := range crypto.ChunkTree + 2 {
				got, ok := x.Find(t.Context(), kind, &refs[i].D, refs[i].Length)
				if ok && got != refs[i] {
					t.Errorf("%+v was found instead of %+v", got, refs[i])
				}
			}
		}
	})
}
