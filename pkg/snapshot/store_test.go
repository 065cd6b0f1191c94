package snapshot_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/gc"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/pack"
)

var update = flag.Bool("update", false, "make testdata/store-1 if it is not there, and write the example of docs/snapshot-format.md anew")

const (
	goldenStore = "testdata/store-1"
	document    = "../../docs/snapshot-format.md"
)

// Keys and identities of the store; docs/snapshot-format.md says them.
func fixed(first byte) (b [32]byte) {
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

func key(t *testing.T, first byte) *crypto.Key {
	t.Helper()
	b := fixed(first)
	k, err := crypto.NewKey(b[:])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Erase)
	return k
}

func id(first byte) format.ID {
	b := fixed(first)
	return format.ID(b[:16])
}

const (
	secretFrom, snapKeyFrom, kekFrom = 0x00, 0x20, 0x40
	snapFrom, attemptFrom            = 0x60, 0x70
	storeFrom, volumeFrom            = 0x80, 0x90
)

func tenant(t *testing.T) *crypto.TenantKeys {
	t.Helper()
	k, err := crypto.DeriveTenantKeys(key(t, secretFrom))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Erase)
	return k
}

func snapshotKeys(t *testing.T) *crypto.SnapshotKeys {
	t.Helper()
	k, err := crypto.DeriveSnapshotKeys(1, crypto.UUID(id(snapFrom)), key(t, snapKeyFrom))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Erase)
	return k
}

// sink puts objects under the fixed attempt.
type sink struct{ store chunkstore.Store }

func (sink) Snapshot() format.ID { return id(snapFrom) }
func (sink) Attempt() format.ID  { return id(attemptFrom) }

func (s sink) Put(ctx context.Context, c format.Class, data []byte, sum format.Sum) (format.Name, error) {
	n := format.Name{Class: c, Attempt: id(attemptFrom), Sum: sum}
	_, err := s.store.Put(ctx, n.Key(), data)
	return n, err
}

var plains = []string{"hello, world!", "a leaf of the map"}

// maker makes the store.
type maker struct {
	t     *testing.T
	store chunkstore.Store
}

func (m *maker) put(key string, data []byte, err error) {
	m.t.Helper()
	if err == nil {
		_, err = m.store.Put(m.t.Context(), key, data)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *maker) chunks() (*format.Head, []selfenc.PackedRef) {
	t, keys, list := m.t, tenant(m.t), pack.NewBuilder(nil)
	w, err := pack.NewWriter(t.Context(), keys, sink{m.store}, list, pack.Options{Epoch: 1})
	if err != nil {
		t.Fatal(err)
	}
	var refs []selfenc.PackedRef
	for i, kind := range []crypto.ChunkKind{crypto.ChunkData, crypto.ChunkTree} {
		r, object, err := keys.SealPacked(1, kind, 0, []byte(plains[i]), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := w.Add(t.Context(), &r, object)
		if err != nil {
			t.Fatal(err)
		}
		refs = append(refs, ref)
	}
	if _, err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := &format.Head{Suite: 1, S: id(snapFrom), Lineage: id(volumeFrom), Created: 1_800_000_000_000_000_000}
	if err := list.Finish(t.Context(), sink{m.store}, nil, h); err != nil {
		t.Fatal(err)
	}
	return h, refs
}

func body(root selfenc.PackedRef) *manifest.Body {
	return &manifest.Body{Volume: crypto.UUID(id(volumeFrom)), Generation: 7, Root: root, ChunkBytes: 65536, LogicalBytes: 13, StoredBytes: 200, Files: 1, Dirs: 1,
		Epoch: 1, Writer: "sealvol"}
}

func card(h *format.Head) *manifest.Card {
	return &manifest.Card{Sealed: h.Sealed, Created: h.Created, Finished: h.Created + 1e9, LogicalBytes: 13, StoredBytes: 200, Files: 1, Suite: 1,
		Volume: id(volumeFrom), Name: "nightly", Claim: "shop/db", Host: "node-a", Tags: map[string]string{"keep": "yes"}}
}

// makeStore writes every kind of object.
func makeStore(t *testing.T, store chunkstore.Store) {
	m, s := &maker{t, store}, id(snapFrom)
	h, refs := m.chunks()
	object, err := manifest.Seal(snapshotKeys(t), h, body(refs[1]))
	m.put(format.SnapKey(s, format.ManifestPart), object, err)
	kek := crypto.SecretCredential(key(t, kekFrom))
	slot, err := crypto.NewSnapshotSlot(1, crypto.UUID(s), 0, kek, key(t, snapKeyFrom))
	if err != nil {
		t.Fatal(err)
	}
	object, err = (&manifest.Slots{Suite: 1, Slots: map[uint8]crypto.Slot{0: slot}}).Encode()
	m.put(format.SlotsKey(s, 0), object, err)
	object, err = manifest.SealCard(tenant(t), 1, s, card(h))
	m.put(format.SnapKey(s, format.CardPart), object, err)

	fp, err := tenant(t).Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	if slot, err = crypto.NewTenantSlot(1, fp, 0, kek, key(t, secretFrom)); err != nil {
		t.Fatal(err)
	}
	object, err = (&manifest.Slots{Suite: 1, Slots: map[uint8]crypto.Slot{0: slot}}).Encode()
	m.put(format.TenantKey(fp, 0), object, err)

	object, err = (&format.Store{Format: 1, ID: id(storeFrom).String(), Consistency: format.Strong, ChunkBytes: 65536, PackBytes: 16 << 20}).Encode()
	m.put(format.StoreKey, object, err)
	object, err = (&format.Tomb{When: h.Created, Who: "admin"}).Encode()
	m.put(format.TombKey(s, id(0xa0)), object, err)
	m.put(format.VerdictKey(s, id(0xa0)), []byte(format.VerdictKeep), nil)
	object, err = (&format.Lease{Use: format.Writing, TTL: time.Hour, Bases: []format.ID{s}, Attempts: []format.ID{id(0xb0)}, Who: "node-a"}).Encode()
	m.put(format.LeaseKey(id(0xc0), id(0xd0)), object, err)
	object, err = format.EncodeCondemned([]format.Name{{Class: format.Pack, Attempt: id(0xe0), Sum: fixed(0xe0)}})
	m.put(format.GCKey(id(0xf0)), object, err)
	m.put(format.SnapKey(id(0xe0), format.CardPart), []byte(format.VoidCard), nil)
}

func openGolden(t *testing.T) *chunkstore.Memory {
	t.Helper()
	if _, err := os.Stat(goldenStore); err != nil && *update {
		if err := os.MkdirAll(goldenStore, 0o755); err != nil {
			t.Fatal(err)
		}
		d, err := chunkstore.OpenDir(goldenStore)
		if err != nil {
			t.Fatal(err)
		}
		makeStore(t, d)
		if err := os.RemoveAll(filepath.Join(goldenStore, ".tmp")); err != nil {
			t.Fatal(err)
		}
	}
	m := chunkstore.NewMemory() // the tests change it
	err := filepath.WalkDir(goldenStore, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil {
			_, err = m.Put(t.Context(), strings.TrimPrefix(filepath.ToSlash(path), goldenStore+"/"), b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestGolden reads everything in a store that an earlier version wrote.
func TestGolden(t *testing.T) {
	store, s, keys := openGolden(t), id(snapFrom), tenant(t)
	r, err := commit.Read(t.Context(), store, s, time.Hour, "test")
	if err != nil {
		t.Fatal(err)
	}
	get := func(key string) []byte {
		t.Helper()
		b, err := store.Get(t.Context(), key, nil, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	kek := crypto.SecretCredential(key(t, kekFrom))
	slots, err := manifest.DecodeSlots(get(format.SlotsKey(s, 0)))
	if err != nil {
		t.Fatal(err)
	}
	sk, err := slots.OpenSnapshot(s, kek)
	if err != nil {
		t.Fatal(err)
	}
	defer sk.Erase()
	if want := fixed(snapKeyFrom); !bytes.Equal(sk.Bytes(), want[:]) {
		t.Error("another snapshot key")
	}
	b, err := manifest.Open(snapshotKeys(t), r.Head, r.Sealed, nil)
	if err != nil {
		t.Fatal(err)
	}
	reader := pack.NewReader(store, keys, pack.NewList(store, r.Head))
	if got, err := reader.Open(t.Context(), &b.Root, nil); err != nil || string(got) != plains[1] {
		t.Errorf("%q, %v", got, err)
	}
	c, err := manifest.OpenCard(keys, s, get(format.SnapKey(s, format.CardPart)))
	if err != nil || c.Name != "nightly" || c.Tags["keep"] != "yes" || c.Check(r.Head) != nil {
		t.Errorf("%+v, %v", c, err)
	}
	fp, err := keys.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	if slots, err = manifest.DecodeSlots(get(format.TenantKey(fp, 0))); err != nil {
		t.Fatal(err)
	}
	secret, err := slots.OpenTenant(fp, kek)
	if err != nil {
		t.Fatal(err)
	}
	secret.Erase()
	report, err := gc.Prune(t.Context(), store, gc.Options{})
	if err != nil || report.Snapshots != 1 || report.Kept.Objects != 1 || len(report.Voided) != 0 || len(report.Missing) != 0 || report.Foreign != 0 {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestDocument compares the document's example with the store.
func TestDocument(t *testing.T) {
	const begin, end = "-update -->\n```\n", "```\n<!-- end -->"
	store := openGolden(t)
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("no example")
	}
	var b strings.Builder
	for info, err := range store.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		data, err := store.Get(t.Context(), info.Key, nil, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s, %d bytes\n", info.Key, len(data))
		for len(data) > 0 {
			n := min(32, len(data))
			fmt.Fprintf(&b, "  %x\n", data[:n])
			data = data[n:]
		}
	}
	if want := b.String(); got != want {
		if *update {
			if err := os.WriteFile(document, []byte(before+begin+want+end+after), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		t.Errorf("the example should be\n%s", want)
	}
}
