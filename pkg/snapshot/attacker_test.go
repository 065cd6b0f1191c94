package snapshot_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/pack"
)

// openAll reads a snapshot as a restore does, and returns the payload of its
// map's root.
func openAll(t *testing.T, store chunkstore.Store, keys *crypto.TenantKeys, s format.ID, sk *crypto.SnapshotKeys) (string, error) {
	t.Helper()
	h, sealed, err := commit.Whole(t.Context(), store, s)
	if err != nil {
		return "", err
	}
	object, err := store.Get(t.Context(), format.SnapKey(s, format.CardPart), nil, format.MaxCardBytes)
	if err != nil {
		return "", err
	}
	c, err := manifest.OpenCard(keys, s, object)
	if err == nil {
		err = c.Check(h)
	}
	if err != nil {
		return "", err
	}
	b, err := manifest.Open(sk, h, sealed, nil)
	if err != nil {
		return "", err
	}
	out, err := pack.NewReader(store, keys, pack.NewList(store, h)).Open(t.Context(), &b.Root, nil)
	return string(out), err
}

// second adds another snapshot of the same volume, by the same tenant.
func second(t *testing.T, store chunkstore.Store, s format.ID) {
	t.Helper()
	keys, w := tenant(t), begin(t, store, s)
	list := pack.NewBuilder(nil)
	pw, err := pack.NewWriter(t.Context(), keys, w, list, pack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r, object, err := keys.SealPacked(1, crypto.ChunkTree, 0, []byte("another leaf"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := pw.Add(t.Context(), &r, object)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pw.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := &format.Head{Suite: 1, S: s, Lineage: id(volumeFrom), Created: 5}
	if err := list.Finish(t.Context(), w, nil, h); err != nil {
		t.Fatal(err)
	}
	p := &commit.Parts{}
	if p.Manifest, err = manifest.Seal(keysOf(t, s), h, body(ref)); err != nil {
		t.Fatal(err)
	}
	if p.Card, err = manifest.SealCard(keys, 1, s, card(h)); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

func begin(t *testing.T, store chunkstore.Store, s format.ID) *commit.Writer {
	t.Helper()
	w, err := commit.Begin(t.Context(), store, s, commit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func keysOf(t *testing.T, s format.ID) *crypto.SnapshotKeys {
	t.Helper()
	k, err := crypto.DeriveSnapshotKeys(1, crypto.UUID(s), key(t, snapKeyFrom))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Erase)
	return k
}

// TestAttackerE is whoever runs the store: he exchanges whatever he has for
// whatever else he has. Each is refused, with an error of its own.
func TestAttackerE(t *testing.T) {
	a, b := id(snapFrom), format.ID{0xbb}
	theirs, err := crypto.DeriveTenantKeys(key(t, 0x33))
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Erase()
	for name, c := range map[string]struct {
		attack func(get func(string) []byte, put func(string, []byte))
		want   error
	}{
		"nothing": {func(func(string) []byte, func(string, []byte)) {}, nil},
		"another snapshot's manifest": {func(get func(string) []byte, put func(string, []byte)) {
			put(format.SnapKey(a, format.ManifestPart), get(format.SnapKey(b, format.ManifestPart)))
		}, format.ErrFormat},
		"its sealed part, under the own head": {func(get func(string) []byte, put func(string, []byte)) {
			forge(t, get, put, a, b, func(_, _ *format.Head, _, theirs []byte) []byte { return theirs })
		}, manifest.ErrExchanged}, // the card notices first
		"a head with another list": {func(get func(string) []byte, put func(string, []byte)) {
			forge(t, get, put, a, b, func(h, other *format.Head, mine, _ []byte) []byte {
				h.Pages, h.Packs, h.Bytes, h.Next = other.Pages, other.Packs, other.Bytes, other.Next
				return mine
			})
		}, manifest.ErrExchanged},
		"another snapshot's card": {func(get func(string) []byte, put func(string, []byte)) {
			put(format.SnapKey(a, format.CardPart), get(format.SnapKey(b, format.CardPart)))
		}, manifest.ErrTenant},
		"an old card of its own": {func(get func(string) []byte, put func(string, []byte)) {
			old, err := manifest.SealCard(tenant(t), 1, a, &manifest.Card{Suite: 1, Sealed: format.Sum{1}})
			if err != nil {
				t.Fatal(err)
			}
			put(format.SnapKey(a, format.CardPart), old)
		}, manifest.ErrExchanged},
		"packs swapped": {func(get func(string) []byte, put func(string, []byte)) {
			put(packOf(t, get, a), get(packOf(t, get, b)))
		}, pack.ErrDamaged},
		"a bit of a pack": {func(get func(string) []byte, put func(string, []byte)) {
			key := packOf(t, get, a)
			bad := bytes.Clone(get(key))
			for i := format.PackHeaderBytes; i < len(bad); i++ {
				bad[i] ^= 1
			}
			put(key, bad)
		}, pack.ErrDamaged},
		"a void card": {func(_ func(string) []byte, put func(string, []byte)) {
			put(format.SnapKey(a, format.CardPart), []byte(format.VoidCard))
		}, commit.ErrNoBase},
	} {
		store := openGolden(t)
		second(t, store, b)
		get := func(key string) []byte {
			out, err := store.Get(t.Context(), key, nil, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		c.attack(get, func(key string, data []byte) {
			if err := store.Replace(t.Context(), key, data); err != nil {
				t.Fatal(err)
			}
		})
		if got, err := openAll(t, store, tenant(t), a, snapshotKeys(t)); !errors.Is(err, c.want) || (err == nil) != (got == plains[1]) {
			t.Errorf("%s: %q, %v; want %v", name, got, err, c.want)
		}
		if got, err := openAll(t, store, theirs, a, snapshotKeys(t)); err == nil {
			t.Errorf("%s: another tenant's secret reads %q", name, got)
		}
	}
}

// forge makes a manifest of a from what the store has of a and b: edit changes a's
// head and returns the sealed part.
func forge(t *testing.T, get func(string) []byte, put func(string, []byte), a, b format.ID, edit func(h, other *format.Head, mine, theirs []byte) []byte) {
	t.Helper()
	h, mine, err := format.DecodeManifest(get(format.SnapKey(a, format.ManifestPart)))
	other, theirs, err2 := format.DecodeManifest(get(format.SnapKey(b, format.ManifestPart)))
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	forged, err := format.EncodeManifest(h, edit(h, other, mine, theirs))
	if err != nil {
		t.Fatal(err)
	}
	put(format.SnapKey(a, format.ManifestPart), forged)
}

// packOf returns the key of a snapshot's only pack.
func packOf(t *testing.T, get func(string) []byte, s format.ID) string {
	t.Helper()
	h, _, err := format.DecodeManifest(get(format.SnapKey(s, format.ManifestPart)))
	if err != nil {
		t.Fatal(err)
	}
	packs, err := h.Pages[0].CheckPage(get(h.Pages[0].Name.Key()))
	if err != nil {
		t.Fatal(err)
	}
	return packs[0].Name.Key()
}

// TestNothingTold looks for what the store may not know in all that it has.
func TestNothingTold(t *testing.T) {
	store := openGolden(t)
	secret, sk, kek := fixed(secretFrom), fixed(snapKeyFrom), fixed(kekFrom)
	needles := []string{plains[0], plains[1], "nightly", "shop/db", "keep", string(secret[:16]), string(sk[:16]), string(kek[:16])}
	for info, err := range store.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		b, err := store.Get(t.Context(), info.Key, nil, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range needles {
			if strings.Contains(string(b), n) || strings.Contains(info.Key, n) {
				t.Errorf("%s holds %q", info.Key, n)
			}
		}
	}
}
