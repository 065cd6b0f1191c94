package crypto

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"
)

// vectorCase is one case of testdata/vectors.json; see testdata/README.md.
type vectorCase struct {
	Name string                     `json:"name"`
	In   vectorIn                   `json:"in"`
	Out  map[string]json.RawMessage `json:"out"`
}

type hexBytes []byte

func (h *hexBytes) UnmarshalText(t []byte) (err error) {
	*h, err = hex.DecodeString(string(t))
	return err
}

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

// recipe is a payload: {"hex"} or {"mod251": n}, padded.
type recipe struct {
	Hex       *hexBytes `json:"hex,omitempty"`
	Mod251    int       `json:"mod251,omitempty"`
	ZeroPadTo int       `json:"zero_pad_to,omitempty"`
}

func (r recipe) bytes() []byte {
	var b []byte
	if r.Hex != nil {
		b = slices.Clone(*r.Hex)
	} else {
		b = make([]byte, r.Mod251)
		for i := range b {
			b[i] = byte(i % 251)
		}
	}
	return append(b, make([]byte, max(0, r.ZeroPadTo-len(b)))...)
}

type vectorIn struct {
	UUID         hexBytes            `json:"uuid,omitempty"`
	VMK          hexBytes            `json:"vmk,omitempty"`
	Suite        Suite               `json:"suite,omitempty"`
	Epoch        uint32              `json:"epoch,omitempty"`
	Nonce        hexBytes            `json:"nonce,omitempty"`
	Kind         uint8               `json:"kind"`
	Level        uint8               `json:"level"`
	Comp         uint8               `json:"comp"`
	Shift        uint8               `json:"shift"`
	Payload      recipe              `json:"payload"`
	LLen         uint32              `json:"llen"`
	Object       uint64              `json:"object"`
	Index        uint64              `json:"index"`
	Birth        uint64              `json:"birth"`
	Address      uint64              `json:"address"`
	MountID      hexBytes            `json:"mount_id,omitempty"`
	Base         uint64              `json:"base"`
	Seq          uint64              `json:"seq"`
	Acked        uint64              `json:"acked"`
	Flags        uint8               `json:"flags"`
	Data         recipe              `json:"data"`
	KEK          hexBytes            `json:"kek,omitempty"`
	Salt         hexBytes            `json:"salt,omitempty"`
	Slot         json.RawMessage     `json:"slot,omitempty"` // a number, or in manifests a slot
	Type         uint8               `json:"type"`
	Params       hexBytes            `json:"params"`
	Epochs       [][]json.RawMessage `json:"epochs,omitempty"`
	Plaintext    recipe              `json:"plaintext"`
	Generation   uint64              `json:"generation"`
	RootHash     hexBytes            `json:"root_hash,omitempty"`
	TenantSecret hexBytes            `json:"tenant_secret,omitempty"`
	Chunk        recipe              `json:"chunk"`
	SnapshotUUID hexBytes            `json:"snapshot_uuid,omitempty"`
	SnapshotKey  hexBytes            `json:"snapshot_key,omitempty"`
	VolumeUUID   hexBytes            `json:"volume_uuid,omitempty"`
	ParentUUID   hexBytes            `json:"parent_uuid,omitempty"`
	Body         recipe              `json:"body"`
}

func (in *vectorIn) slot(t *testing.T) uint8 {
	t.Helper()
	var n uint8
	if err := json.Unmarshal(in.Slot, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func (in *vectorIn) keys(t *testing.T) *EpochKeys {
	t.Helper()
	return testEpochKeys(t, in.Suite, UUID(in.UUID), max(in.Epoch, 1), in.VMK)
}

func testKey(t testing.TB, b []byte) *Key {
	t.Helper()
	k, err := NewKey(slices.Clone(b))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Erase)
	return k
}

func testEpochKeys(t testing.TB, s Suite, id UUID, epoch uint32, vmk []byte) *EpochKeys {
	t.Helper()
	k, err := DeriveEpochKeys(s, id, epoch, testKey(t, vmk))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Erase)
	return k
}

// outputs collects what a case gave, to be compared field by field.
type outputs map[string]any

func (c *vectorCase) check(t *testing.T, got outputs) {
	t.Helper()
	for name, want := range c.Out {
		v, ok := got[name]
		if !ok {
			t.Errorf("%s: not recomputed", name)
			continue
		}
		js, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, want); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(js, compact.Bytes()) {
			t.Errorf("%s:\n got %.200s\nwant %.200s", name, js, compact.Bytes())
		}
	}
	if len(got) != len(c.Out) {
		t.Errorf("%d fields recomputed, the vector has %d", len(got), len(c.Out))
	}
}

func le32(n int) hexBytes { return hexBytes{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)} }

func hashOf(b []byte) hexBytes { h := sha256.Sum256(b); return h[:] }

var vectorGroups = map[string]func(*testing.T, *vectorCase){
	"keys":       vectorKeys,
	"extents":    vectorExtent,
	"root_slots": vectorRootSlot,
	"log_frames": vectorLogFrame,
	"anchors":    vectorAnchor,
	"key_slots":  vectorKeySlot,
	"chunks":     vectorChunk,
	"manifests":  vectorManifest,
}

func TestVectors(t *testing.T) {
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var groups map[string]json.RawMessage
	if err := json.Unmarshal(b, &groups); err != nil {
		t.Fatal(err)
	}
	for group, raw := range groups {
		if group == "format" || group == "about" {
			continue
		}
		run := vectorGroups[group]
		if run == nil {
			t.Errorf("group %s has no test", group)
			continue
		}
		var cases []vectorCase
		if err := json.Unmarshal(raw, &cases); err != nil {
			t.Fatalf("group %s: %v", group, err)
		}
		for i := range cases {
			t.Run(group+"/"+cases[i].Name, func(t *testing.T) { run(t, &cases[i]) })
		}
	}
}

func vectorKeys(t *testing.T, c *vectorCase) {
	k := c.In.keys(t)
	prk := make([]byte, 32)
	extract(prk, saltVolume, c.In.UUID, c.In.VMK)
	c.check(t, outputs{
		"prk": hexBytes(prk), "K_data": hexBytes(k.data.key.bytes()), "K_meta": hexBytes(k.meta.key.bytes()),
		"K_log": hexBytes(k.log.key.bytes()), "K_root": hexBytes(k.root.key.bytes()),
		"K_anchor": hexBytes(k.anchor.bytes()), "K_header": hexBytes(k.header.bytes()), "commit": hexBytes(k.commit.bytes()),
	})
}

func (in *vectorIn) extent() *Extent {
	return &Extent{
		Nonce: [24]byte(in.Nonce), Birth: in.Birth, Epoch: in.Epoch,
		PLen: uint32(len(in.Payload.bytes())), LLen: in.LLen,
		Kind: in.Kind, Level: in.Level, Comp: in.Comp, Shift: in.Shift,
		Object: in.Object, Index: in.Index,
	}
}

// record is the parent's value, as the threat model draws it.
func record(e *Extent, address uint64, tags []Tag) []byte {
	var b []byte
	b = appendLE(b, 8, address)
	b = appendLE(b, 8, e.Birth)
	b = append(b, e.Nonce[:]...)
	for _, v := range []uint32{e.Epoch, e.PLen, e.LLen} {
		b = appendLE(b, 4, uint64(v))
	}
	b = append(b, e.Kind, e.Level, e.Comp, e.Shift)
	b = appendLE(b, 8, e.Object)
	b = appendLE(b, 8, e.Index)
	b = append(b, 0, byte(len(tags)-1), 0, 0, 0, 0, 0, 0)
	for _, tag := range tags {
		b = append(b, tag[:]...)
	}
	return b
}

func appendLE(b []byte, n int, v uint64) []byte {
	for i := range n {
		b = append(b, byte(v>>(8*i)))
	}
	return b
}

func vectorExtent(t *testing.T, c *vectorCase) {
	k, e, payload := c.In.keys(t), c.In.extent(), c.In.Payload.bytes()
	tags := make([]Tag, e.Segments())
	dst := make([]byte, e.PaddedBytes())
	if err := k.sealExtent(e, dst, tags, payload); err != nil {
		t.Fatal(err)
	}
	c.check(t, extentOutputs(k, e, c.In.Address, dst, tags))

	inPlace := make([]byte, e.PaddedBytes())
	copy(inPlace, payload)
	again := make([]Tag, len(tags))
	if err := k.sealExtent(e, inPlace, again, inPlace[:len(payload)]); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(inPlace, dst) || !slices.Equal(again, tags) {
		t.Error("sealing in place gives other bytes")
	}
	if err := k.OpenSegments(e, 0, len(tags), inPlace, inPlace, tags); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(inPlace[:len(payload)], payload) || !zeros(inPlace[len(payload):]) {
		t.Error("opening in place gives other bytes")
	}
}

func extentOutputs(k *EpochKeys, e *Extent, address uint64, dst []byte, tags []Tag) outputs {
	aads, texts := make([]hexBytes, len(tags)), make([]hexBytes, len(tags))
	for i := range tags {
		var aad [64]byte
		e.putAAD(&aad, k.suite, k.id, len(tags))
		aad[60] = byte(i)
		aads[i], texts[i] = aad[:], tags[i][:]
	}
	return outputs{
		"plen": le32(int(e.PLen)), "aads": aads, "tags": texts, "device_first32": hexBytes(dst[:32]),
		"device_sha256": hashOf(dst), "record": hexBytes(record(e, address, tags)),
	}
}

func vectorRootSlot(t *testing.T, c *vectorCase) {
	k, slot := c.In.keys(t), c.In.slot(t)
	sector, plain := make([]byte, SectorBytes), c.In.Plaintext.bytes()
	if err := k.sealSectorNonce(&k.root, [24]byte(c.In.Nonce), k.rootAAD(slot), plain, sector); err != nil {
		t.Fatal(err)
	}
	r := RootHash(plain)
	c.check(t, outputs{
		"aad": hexBytes(k.rootAAD(slot)), "root_hash": hexBytes(r[:]), "tag": hexBytes(sector[SectorBytes-16:]),
		"sector_sha256": hashOf(sector),
	})
	got := make([]byte, RootBytes)
	if err := k.OpenRoot(slot, sector, got); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("does not open: %v", err)
	}
}

func vectorLogFrame(t *testing.T, c *vectorCase) {
	k, in := c.In.keys(t), &c.In
	mount := [16]byte(in.MountID)
	p := FramePayload{Acked: in.Acked, Base: in.Base, Flags: in.Flags, Data: in.Data.bytes()}
	payload, sector := make([]byte, FrameBytes), make([]byte, SectorBytes)
	if err := p.Encode(payload); err != nil {
		t.Fatal(err)
	}
	aad := k.frameAAD(&mount, in.Seq)
	if err := k.sealSectorNonce(&k.log, [24]byte(in.Nonce), aad, payload, sector); err != nil {
		t.Fatal(err)
	}
	c.check(t, outputs{"aad": hexBytes(aad), "tag": hexBytes(sector[SectorBytes-16:]), "frame_sha256": hashOf(sector)})
	got := make([]byte, FrameBytes)
	if err := k.OpenFrame(mount, in.Seq, sector, got); err != nil {
		t.Fatal(err)
	}
	q, err := DecodeFramePayload(got)
	if err != nil || !bytes.Equal(q.Data, p.Data) || q.Acked != p.Acked || q.Base != p.Base || q.Flags != p.Flags {
		t.Errorf("decodes to something else: %v", err)
	}
}

func vectorAnchor(t *testing.T, c *vectorCase) {
	a := c.In.keys(t).Anchor(c.In.Generation, [32]byte(c.In.RootHash))
	c.check(t, outputs{"anchor": hexBytes(a[:])})
}

func vectorKeySlot(t *testing.T, c *vectorCase) {
	in := &c.In
	var epochs []EpochKey
	for _, pair := range in.Epochs {
		var e EpochKey
		var vmk hexBytes
		if err := errors.Join(json.Unmarshal(pair[0], &e.Epoch), json.Unmarshal(pair[1], &vmk)); err != nil {
			t.Fatal(err)
		}
		e.VMK = testKey(t, vmk)
		epochs = append(epochs, e)
	}
	id, slot := UUID(in.UUID), Slot{Type: in.Type, Params: in.Params}
	var err error
	kek := testKey(t, in.KEK)
	slot.Sealed, err = sealEntries(in.Suite, id, in.slot(t), &slot, kek, [32]byte(in.Salt), epochs, saltVolume)
	if err != nil {
		t.Fatal(err)
	}
	c.check(t, slotOutputs(in.Suite, id, in.slot(t), &slot))

	got, err := OpenSlot(in.Suite, id, in.slot(t), &slot, fixedKEK{slot.Type, kek})
	if err != nil {
		t.Fatal(err)
	}
	defer EraseEpochs(got)
	for i, e := range got {
		if e.Epoch != epochs[i].Epoch || !bytes.Equal(e.VMK.Bytes(), epochs[i].VMK.Bytes()) {
			t.Errorf("entry %d opens to something else", i)
		}
	}
}

// fixedKEK is a credential whose KEK is known, for slots of any type.
type fixedKEK struct {
	kind uint8
	key  *Key
}

func (f fixedKEK) SlotType() uint8                       { return f.kind }
func (f fixedKEK) Erase()                                {}
func (f fixedKEK) kek(Suite, UUID, []byte) (*Key, error) { return f.key.Clone() }

func slotOutputs(s Suite, id UUID, index uint8, slot *Slot) outputs {
	hash := sha256.Sum256(slot.Params)
	ctx := append(append([]byte{byte(s)}, id[:]...), index, slot.Type)
	return outputs{
		"ctx": hexBytes(append(ctx, hash[:]...)), "wrap_commit": hexBytes(slot.Sealed[32:64]),
		"ct": hexBytes(slot.Sealed[64:]), "slot_bytes": hexBytes(slot.Sealed),
	}
}

func vectorChunk(t *testing.T, c *vectorCase) {
	in := &c.In
	k, err := DeriveTenantKeys(testKey(t, in.TenantSecret))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Erase()
	chunk := in.Chunk.bytes()
	r, object, err := k.SealChunk(in.Suite, ChunkKind(in.Kind), in.Comp, chunk, in.Payload.bytes(), nil)
	if err != nil {
		t.Fatal(err)
	}
	c.check(t, chunkOutputs(k, &r, object))
	got, err := k.OpenChunk(&r, object, nil)
	if err != nil {
		t.Fatal(err)
	}
	if in.Comp == 0 && !bytes.Equal(got, chunk) || in.Comp != 0 && !bytes.Equal(got, in.Payload.bytes()) {
		t.Error("opens to something else")
	}
	if err := k.CheckChunk(&r, chunk); err != nil {
		t.Error(err)
	}
}

func chunkOutputs(k *TenantKeys, r *ChunkRef, object []byte) outputs {
	key := make([]byte, 32)
	expand(key, k.c.bytes(), "chunk-key", []byte{byte(r.Suite), byte(r.Kind), r.Comp}, r.P[:])
	return outputs{
		"C": hexBytes(k.c.bytes()), "d": hexBytes(r.D[:]), "p": hexBytes(r.P[:]), "key": hexBytes(key),
		"tag": hexBytes(object[len(object)-16:]), "name": hexBytes(r.Name[:]), "object_len": le32(len(object)),
	}
}

func vectorManifest(t *testing.T, c *vectorCase) {
	in := &c.In
	id, sk := UUID(in.SnapshotUUID), testKey(t, in.SnapshotKey)
	k, err := DeriveSnapshotKeys(in.Suite, id, sk)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Erase()
	m := &Manifest{Volume: UUID(in.VolumeUUID), Generation: in.Generation, Parent: UUID(in.ParentUUID), Body: in.Body.bytes()}
	sealed, err := k.sealManifest([24]byte(in.Nonce), m)
	if err != nil {
		t.Fatal(err)
	}
	var w struct {
		KEK, Salt, Params hexBytes
		Slot, Type        uint8
	}
	if err := json.Unmarshal(in.Slot, &w); err != nil {
		t.Fatal(err)
	}
	slot := Slot{Type: w.Type, Params: w.Params}
	kek := testKey(t, w.KEK)
	slot.Sealed, err = sealEntries(in.Suite, id, w.Slot, &slot, kek, [32]byte(w.Salt), []EpochKey{{0, sk}}, saltSnapshot)
	if err != nil {
		t.Fatal(err)
	}
	c.check(t, manifestOutputs(k, sk, sealed, &slot))
	got, err := k.OpenManifest(sealed)
	if err != nil {
		t.Fatal(err)
	}
	if got.Volume != m.Volume || got.Generation != m.Generation || got.Parent != m.Parent || !bytes.Equal(got.Body, m.Body) {
		t.Error("opens to something else")
	}
	key, err := OpenSnapshotSlot(in.Suite, id, w.Slot, &slot, fixedKEK{slot.Type, kek})
	if err != nil {
		t.Fatal(err)
	}
	defer key.Erase()
	if !bytes.Equal(key.Bytes(), sk.Bytes()) {
		t.Error("the slot opens to something else")
	}
}

func manifestOutputs(k *SnapshotKeys, sk *Key, sealed []byte, slot *Slot) outputs {
	var commit [32]byte
	keyCommitment(commit[:], saltSnapshot, k.id, sk)
	return outputs{
		"K_manifest": hexBytes(k.box.key.bytes()), "commit": hexBytes(commit[:]), "aad": hexBytes(k.aad()),
		"object": hexBytes(sealed), "object_sha256": hashOf(sealed), "slot_bytes": hexBytes(slot.Sealed),
	}
}
