package pack

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// TestFlippedTables flips every byte of a pack's header, table and trailer: no chunk
// is found anywhere but where it is.
func TestFlippedTables(t *testing.T) {
	w := newWalker(t, 7)
	if err := w.run(t, 1<<30, IndexOptions{}); err != nil {
		t.Fatal(err)
	}
	packs := w.stored(t)
	if len(packs) != 1 {
		t.Fatal(len(packs))
	}
	var size int64
	for _, size = range packs {
	}
	table := size - int64(endBytes(len(w.refs)))
	find := func(store chunkstore.Store) (found int) {
		t.Helper()
		x, err := NewIndex(t.Context(), store, w.keys, testSnapshot, NewBuilder(nil), IndexOptions{Packs: packs})
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		for i := range w.refs {
			for kind := crypto.ChunkData; kind <= crypto.ChunkTree; kind++ {
				r, ok := x.Find(t.Context(), kind, &w.refs[i].D, w.refs[i].Length)
				if ok && r != w.refs[i] {
					t.Errorf("chunk %d: %+v was found", i, r)
				}
				if ok {
					found++
				}
			}
		}
		return found
	}
	if n := find(w.store); n != len(w.refs) {
		t.Fatalf("%d chunks were found", n)
	}
	for at := range size {
		if at >= format.PackHeaderBytes && at < table {
			continue
		}
		for _, bit := range []byte{1, 0x80} {
			n := find(&ranges{w.store, func(_ string, off int64, dst []byte) error {
				if at >= off && at < off+int64(len(dst)) {
					dst[at-off] ^= bit
				}
				return nil
			}})
			// Half a pack can still be found if the trailer's hash is another: nobody reads what it is of.
			slot := at >= table && at < table+int64(len(w.refs)*format.PackSlotBytes)
			if slot && n != len(w.refs)-1 && n != 0 || at < format.PackHeaderBytes && n != 0 {
				t.Errorf("byte %d changed: %d chunks were found", at, n)
			}
		}
	}
}

// TestForgedTables: another pack under the name of one matches nothing, unless
// it is what an attempt at this snapshot wrote.
func TestForgedTables(t *testing.T) {
	w := newWalker(t, 100)
	if err := w.run(t, 1<<30, IndexOptions{}); err != nil {
		t.Fatal(err)
	}
	packs := w.stored(t)
	find := func(keys *crypto.TenantKeys, s format.ID, o IndexOptions) int {
		t.Helper()
		x, err := NewIndex(t.Context(), w.store, keys, s, NewBuilder(nil), o)
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		for i := range w.refs {
			x.Find(t.Context(), w.refs[i].Kind, &w.refs[i].D, w.refs[i].Length)
		}
		return x.Found().Chunks
	}
	all := len(w.refs)
	if n := find(w.keys, testSnapshot, IndexOptions{Packs: packs}); n != all {
		t.Errorf("%d of %d found", n, all)
	}
	if n := find(tenant(t, 2), testSnapshot, IndexOptions{Packs: packs}); n != 0 {
		t.Errorf("another tenant finds %d", n)
	}
	// A lease that names attempts at other snapshots tells the store nothing.
	if n := find(w.keys, format.ID{9}, IndexOptions{Packs: packs}); n != 0 {
		t.Errorf("a writer of another snapshot finds %d", n)
	}
	if n := find(w.keys, format.ID{9}, IndexOptions{Packs: packs, Snapshots: map[format.ID]format.ID{w.attempt: testSnapshot}}); n != all {
		t.Errorf("a writer that was told which snapshot it was finds %d of %d", n, all)
	}
	// Under the name of another attempt.
	warnings := 0
	other := map[format.Name]int64{}
	for n, size := range packs {
		b, err := w.store.Get(t.Context(), n.Key(), nil, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		n.Attempt[0]++
		if _, err := w.store.Put(t.Context(), n.Key(), b); err != nil {
			t.Fatal(err)
		}
		other[n] = size
	}
	if n := find(w.keys, testSnapshot, IndexOptions{Packs: other, Warn: func(error) { warnings++ }}); n != 0 || warnings == 0 {
		t.Errorf("under another name: %d found, %d warnings", n, warnings)
	}
}

// TestUnreadablePacks: what cannot be read is stored again, and somebody is told.
func TestUnreadablePacks(t *testing.T) {
	w := newWalker(t, 4000)
	if err := w.run(t, 1<<30, IndexOptions{}); err != nil {
		t.Fatal(err)
	}
	all, packs := w.put, w.stored(t)
	good := w.store
	bad := 0
	for n := range packs { // more in a row than the window has
		if bad++; bad%4 != 0 {
			continue
		}
		if err := good.Delete(t.Context(), n.Key()); err != nil {
			t.Fatal(err)
		}
	}
	packs[format.Name{Class: format.Pack}] = 7
	var warnings []error
	if err := w.run(t, 1<<30, IndexOptions{Packs: packs, Warn: func(err error) { warnings = append(warnings, err) }}); err != nil {
		t.Fatal(err)
	}
	if len(warnings) != bad/4+1 || !strings.Contains(warnings[0].Error(), format.PackPrefix) {
		t.Errorf("%d warnings for %d packs: %v", len(warnings), bad/4+1, warnings)
	}
	if most := all.Packs/4 + 10 + all.Packs/16; w.put.Packs > most {
		t.Errorf("%d packs stored anew of %d", w.put.Packs, all.Packs)
	}
	w.finish(t)
}

// TestGap: more tables in a row than the window has cannot be read.
func TestGap(t *testing.T) {
	w := newWalker(t, 5000)
	if err := w.run(t, 1<<30, IndexOptions{}); err != nil {
		t.Fatal(err)
	}
	all, packs := w.put, w.stored(t)
	w.store = &ranges{w.store, func(_ string, off int64, dst []byte) error {
		if n := binary.LittleEndian.Uint32(dst[12:]); off == 0 && n > 50 && n < 250 {
			clear(dst) // the header
		}
		return nil
	}}
	if err := w.run(t, 1<<30, IndexOptions{Packs: packs}); err != nil {
		t.Fatal(err)
	}
	if most := 200 + 200/8; w.put.Packs > most {
		t.Errorf("%d packs stored anew of %d", w.put.Packs, all.Packs)
	}
	w.finish(t)
}
