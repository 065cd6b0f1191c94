package snapshot_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/merkle"
	"github.com/sealvol/sealvol/pkg/snapshot/pack"
	"github.com/sealvol/sealvol/pkg/snapshot/restore"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/snapshot/stored"
	"github.com/sealvol/sealvol/pkg/snapshot/verify"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/volumetest"
)

// objects are all objects of a store.
func (r *historyRig) objects() map[string][]byte {
	r.t.Helper()
	all := map[string][]byte{}
	for info, err := range r.store.Objects().List(r.t.Context(), "", "") {
		r.ok(err)
		b, err := r.store.Objects().Get(r.t.Context(), info.Key, nil, 64<<20)
		r.ok(err)
		all[info.Key] = b
	}
	return all
}

// opened opens a snapshot as whoever restores it does.
func (r *historyRig) opened(s format.ID) (*stored.Snapshot, error) {
	h, sealed, err := commit.Whole(r.t.Context(), r.store.Objects(), s)
	if err != nil {
		return nil, err
	}
	object, err := r.store.Objects().Get(r.t.Context(), format.SnapKey(s, format.CardPart), nil, format.MaxCardBytes)
	if err != nil {
		return nil, err
	}
	c, err := manifest.OpenCard(r.tenant.Keys, s, object)
	if err == nil {
		err = c.Check(h)
	}
	if err != nil {
		return nil, err
	}
	b, err := r.open(s)(r.t.Context(), h, sealed)
	if err != nil {
		return nil, err
	}
	return stored.Open(r.store.Objects(), r.tenant.Keys, h, b)
}

// told are the errors that attacks on a store end in.
var told = []error{pack.ErrDamaged, pack.ErrNoPack, format.ErrFormat, manifest.ErrExchanged, manifest.ErrKey, manifest.ErrTenant, manifest.ErrNoSlot, commit.ErrNoBase,
	commit.ErrVoid, chunkstore.ErrNotFound, chunkstore.ErrRange, chunkstore.ErrTooLarge, selfenc.ErrCorrupt, merkle.ErrInvalid, snapstore.ErrNoKeys}

func (r *historyRig) told(what string, err error) {
	r.t.Helper()
	for _, e := range told {
		if errors.Is(err, e) {
			return
		}
	}
	r.t.Errorf("%s: %v", what, err)
}

// attacked uses a snapshot of a store that may lie. It returns whether anybody noticed.
func (r *historyRig) attacked(what string, want *create.Report, name string) (noticed bool) {
	r.t.Helper()
	sn, err := r.opened(want.S)
	if err != nil {
		r.told(what+": open", err)
		return true
	}
	defer sn.Close()
	if sn.Content() != want.Content {
		r.t.Fatalf("%s: another content", what)
	}
	_, err = verify.Run(r.t.Context(), sn.VerifySource(), verify.Options{Level: verify.Data, Problem: func(p verify.Problem) {
		noticed = true
		r.told(what+": verify", p.Err)
	}})
	if err != nil {
		r.told(what+": verify", err)
		noticed = true
	}
	if err := r.readAll(sn, want); err != nil {
		if r.told(what+": view", err); !noticed {
			r.t.Errorf("%s: a view notices, and verification does not: %v", what, err)
		}
	}
	next, err := sn.NextIno(r.t.Context())
	if err != nil {
		r.told(what+": restore", err)
		return true
	}
	dev := device.NewMem(96 << 20)
	l, err := volume.NewLoader(dev, volume.FormatOptions{Recipient: r.kek}, volume.LoadOptions{Credential: r.cred, HashSeed: sn.Body.Seed, NextIno: next})
	r.ok(err)
	if err = restore.Run(r.t.Context(), sn.RestoreSource(), l, restore.Options{}); err != nil {
		_ = l.Close()
		if r.told(what+": restore", err); !noticed {
			r.t.Errorf("%s: a restore notices, and verification does not: %v", what, err)
		}
	} else if noticed {
		// Verification also compares lengths. What this snapshot needs of the pack was there.
		r.restoredSame(what, dev, &create.Report{Content: want.Content})
	}
	return noticed
}

// readAll reads a view.
func (r *historyRig) readAll(sn *stored.Snapshot, want *create.Report) error {
	v := sn.View(r.t.Context())
	b := make([]byte, 1<<20)
	for x, err := range sn.RestoreSource().Map.Scan(r.t.Context(), logical.Key{}, merkle.LastKey) {
		if err != nil {
			return err
		}
		if x.Key.Type != logical.DataType {
			continue
		}
		n, err := v.GetAttr(vfs.Ino(x.Key.Ino))
		if err != nil {
			return err
		}
		for _, off := range []uint64{0, n.Size - min(n.Size, 1<<20)} {
			if _, err := v.Read(vfs.Ino(x.Key.Ino), off, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// spoil are what a store does to one object. other is another one of its class, nil if there is none.
var spoil = []struct {
	name string
	do   func(b, other []byte) []byte // nil: the object is gone
}{
	{"gone", func([]byte, []byte) []byte { return nil }},
	{"empty", func([]byte, []byte) []byte { return []byte{} }},
	{"shorter", func(b, _ []byte) []byte { return b[:len(b)-1] }},
	{"half", func(b, _ []byte) []byte { return b[:len(b)/2] }},
	{"longer", func(b, _ []byte) []byte { return append(bytes.Clone(b), 0) }},
	{"bits", func(b, _ []byte) []byte {
		b = bytes.Clone(b)
		for i := 40; i < len(b); i += 64 {
			b[i] ^= 1
		}
		b[len(b)-1] ^= 1
		return b
	}},
	{"exchanged", func(b, other []byte) []byte {
		if other == nil {
			return b
		}
		return other
	}},
}

// TestAttackerStore spoils each object of a store, of two snapshots and of another tenant. Readers
// notice, each with an error that says so, and nobody loses anything else.
func TestAttackerStore(t *testing.T) {
	h := volumetest.NewHistory(t, 79, 96<<20)
	r := newHistoryRig(t, h, snapstore.Options{ChunkBytes: 16 << 10, PackBytes: 1 << 20})
	r.v = h.V
	h.Steps(200)
	data := make([]byte, 2<<20)
	for i := 0; i < len(data); i += 8 {
		binary.LittleEndian.PutUint64(data[i:], h.Rng.Uint64())
	}
	r.write("data", data, 0)
	_, err := h.V.CreateSnapshot("a")
	r.ok(err)
	h.Steps(60)
	_, err = h.V.CreateSnapshot("b")
	r.ok(err)
	a := r.put("", "a", r.options(nil))
	b := r.put("a", "b", r.options(a))
	r.stranger()
	golden := r.objects()
	for key, object := range golden {
		for _, x := range spoil {
			bad := x.do(object, otherOf(golden, key))
			if bytes.Equal(bad, object) || testing.Short() && h.Rng.IntN(5) > 0 {
				continue
			}
			what := key + ": " + x.name
			r.reset(golden, key, bad)
			for _, s := range []*create.Report{a, b} {
				noticed := r.attacked(what, s, "")
				if mine := strings.Contains(key, s.S.String()); mine && !noticed && !strings.Contains(key, "/keys-") {
					t.Errorf("%s: nobody noticed", what)
				}
			}
			r.onAttacked(what, b, golden, key)
		}
	}
	r.oldParts(golden, a, b)
	h.Close()
}

// stranger is another tenant with a snapshot in the same store.
func (r *historyRig) stranger() {
	mine := r.tenant
	secret, err := crypto.GenerateKey()
	r.ok(err)
	defer secret.Erase()
	r.tenant, err = snapstore.NewTenant(secret)
	r.ok(err)
	r.t.Cleanup(r.tenant.Erase)
	r.put("", "b", r.options(nil))
	r.tenant = mine
}

// otherOf is another object of a class.
func otherOf(all map[string][]byte, key string) []byte {
	class := func(key string) string {
		parts := strings.Split(key, "/")
		if parts[0] == "snap" {
			return parts[0] + parts[len(parts)-1]
		}
		return parts[0]
	}
	for k, b := range all {
		if k != key && class(k) == class(key) {
			return b
		}
	}
	return nil
}

// reset gives the store the golden objects, but one; nil: it is gone.
func (r *historyRig) reset(golden map[string][]byte, key string, bad []byte) {
	r.t.Helper()
	store := chunkstore.NewMemory()
	for k, b := range golden {
		r.ok(store.Replace(r.t.Context(), k, b))
	}
	var err error
	r.store, err = snapstore.Open(r.t.Context(), store)
	r.ok(err)
	if bad == nil {
		r.ok(store.Delete(r.t.Context(), key))
	} else {
		r.ok(store.Replace(r.t.Context(), key, bad))
	}
}

// onAttacked makes a snapshot on a base in a store that lies: it has the right content or there is
// an error, and all that was there is as before.
func (r *historyRig) onAttacked(what string, base *create.Report, golden map[string][]byte, key string) {
	r.t.Helper()
	for _, from := range []string{"b", ""} {
		rep, err := r.tryPut(from, "a", r.options(base))
		if err != nil {
			r.told(what+": create", err)
		} else if rep.Content == base.Content {
			r.t.Fatalf("%s: create: another content", what)
		}
	}
	now := r.objects()
	for k, b := range golden {
		if k != key && !bytes.Equal(now[k], b) {
			r.t.Fatalf("%s: create changed %s", what, k)
		}
	}
}

// oldParts puts parts of one snapshot into the place of another's.
func (r *historyRig) oldParts(golden map[string][]byte, a, b *create.Report) {
	for _, part := range []string{format.CardPart, format.ManifestPart, format.KeysPart + "0"} {
		key := format.SnapKey(b.S, part)
		r.reset(golden, key, golden[format.SnapKey(a.S, part)])
		if !r.attacked(part+" of the parent", b, "") {
			r.t.Errorf("%s of the parent: nobody noticed", part)
		}
	}
	r.reset(golden, format.StoreKey, golden[format.StoreKey])
	for _, part := range []string{format.CardPart, format.ManifestPart, format.KeysPart + "0"} { // the whole parent in its place
		r.ok(r.store.Objects().Replace(r.t.Context(), format.SnapKey(b.S, part), golden[format.SnapKey(a.S, part)]))
	}
	if !r.attacked("the parent in its place", b, "") {
		r.t.Error("the parent in the place of a snapshot: nobody noticed")
	}
	strange := *r
	secret, err := crypto.GenerateKey()
	r.ok(err)
	defer secret.Erase()
	strange.tenant, err = snapstore.NewTenant(secret)
	r.ok(err)
	defer strange.tenant.Erase()
	r.reset(golden, format.StoreKey, golden[format.StoreKey])
	strange.store = r.store
	if _, err := strange.opened(a.S); !errors.Is(err, manifest.ErrTenant) {
		r.t.Errorf("another tenant: %v", err)
	}
}

// TestNothingToldByEngine looks for what the store may not know in all that the engine stores.
func TestNothingToldByEngine(t *testing.T) {
	h := volumetest.NewHistory(t, 80, 96<<20)
	r := newHistoryRig(t, h, snapstore.Options{ChunkBytes: 16 << 10})
	r.v = h.V
	content := []byte("the content of a file, which nobody may know")
	r.write("a telling name", bytes.Repeat(content, 3), 0)
	big := r.write("another telling name", bytes.Repeat(content, 3000), 0)
	r.ok(h.V.SetXattr(&vfs.Req{}, big, "user.telling", []byte("a telling value"), 0))
	_, err := h.V.Symlink(&vfs.Req{}, vfs.RootIno, "link", "/a/telling/target")
	r.ok(err)
	_, err = h.V.CreateSnapshot("local-name")
	r.ok(err)
	o := r.options(nil)
	o.Label = create.Label{Name: "label name", Claim: "shop/claim", Host: "some-host", Tags: map[string]string{"tag key": "tag value"}}
	rep := r.put("", "local-name", o)
	needles := map[string][]byte{}
	for _, s := range []string{"nobody may know", "telling", "user.", "label name", "shop/claim", "some-host", "tag key", "tag value", "local-name"} {
		needles[s] = []byte(s)
	}
	sk, err := r.store.SnapshotKey(t.Context(), rep.S, r.cred)
	r.ok(err)
	defer sk.Erase()
	needles["content hash"] = rep.Content[:16]
	sn := r.read(rep.S)
	id := sn.Body.Volume
	needles["hash seed"], needles["volume"] = sn.Body.Seed[:], id[:]
	src := sn.RestoreSource()
	add := func(what string, ref *selfenc.PackedRef) {
		needles[what+" d"], needles[what+" p"] = bytes.Clone(ref.D[:16]), bytes.Clone(ref.P[:16])
	}
	r.ok(src.Map.Walk(t.Context(), nil, func(n *merkle.Node) error { add("node", &n.Ref); return nil }))
	for k, v := range r.items(sn) {
		needles[fmt.Sprint("fact ", k)] = v[:min(len(v), 24)]
		if k.Type == logical.DataType {
			d, err := fact.DecodeData(v)
			r.ok(err)
			r.ok(src.Sealer.Walk(t.Context(), &d, func(l int, i int64, ref *selfenc.PackedRef) error {
				add(fmt.Sprint("chunk ", l, i), ref)
				return nil
			}))
		}
	}
	for key, b := range r.objects() {
		for what, n := range needles {
			if what == "volume" && !strings.HasPrefix(key, "packs/") && !strings.HasPrefix(key, "lists/") && !strings.HasPrefix(key, "tenant/") {
				continue // the head names the volume's lineage
			}
			if len(n) >= 5 && (bytes.Contains(b, n) || strings.Contains(key, string(n))) {
				t.Errorf("%s holds %s", key, what)
			}
		}
	}
	h.Close()
}
