package crypto

import (
	"encoding/json"
	"flag"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"testing"
)

var freshVectors = flag.String("fresh-vectors", "", "write fresh output of the sealing functions to this file, for testdata/check.py")

// TestFreshVectors writes cases in the form of vectors.json, made by the real sealing functions
// with random nonces and salts. `make vectors` recomputes them with check.py, which shares no code
// with this package.
func TestFreshVectors(t *testing.T) {
	doc := map[string]any{"format": 1, "about": "fresh output of pkg/crypto"}
	for _, s := range bothSuites {
		for i := range 3 {
			f := fresh{t: t, s: s, id: NewUUID(), name: fmt.Sprintf("%v-%d", s, i), doc: doc}
			vmk := randomBytes(32)
			f.epoch = 1 + mathrand.Uint32N(1<<20)
			f.k = testEpochKeys(t, s, f.id, f.epoch, vmk)
			f.base = map[string]any{"uuid": hexBytes(f.id[:]), "vmk": hexBytes(vmk), "suite": s, "epoch": f.epoch}
			f.keys()
			for _, e := range []Extent{
				{Kind: KindFileData, Shift: 12}, {Kind: KindFileData, Shift: 16}, {Kind: KindFileData},
				{Kind: 1, Level: uint8(i)}, {Kind: KindFileData, Comp: 1},
			} {
				f.extent(e)
			}
			f.sectors()
			f.slots()
			f.snapshot()
		}
	}
	if *freshVectors == "" {
		return
	}
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(*freshVectors, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// fresh writes the cases of one random volume.
type fresh struct {
	t     *testing.T
	s     Suite
	id    UUID
	epoch uint32
	k     *EpochKeys
	name  string
	base  map[string]any
	doc   map[string]any
}

func (f *fresh) add(group string, in map[string]any, out outputs) {
	// Some values are in key memory, which is erased before doc is written.
	var err error
	for k, v := range out {
		out[k], err = json.Marshal(v)
		f.ok(err)
		out[k] = json.RawMessage(out[k].([]byte))
	}
	for k, v := range in {
		in[k], err = json.Marshal(v)
		f.ok(err)
		in[k] = json.RawMessage(in[k].([]byte))
	}
	for k, v := range f.base {
		if _, ok := in[k]; !ok {
			in[k] = v
		}
	}
	cases, _ := f.doc[group].([]any)
	name := fmt.Sprintf("%s-%d", f.name, len(cases))
	f.doc[group] = append(cases, map[string]any{"name": name, "in": in, "out": out})
}

func (f *fresh) ok(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fresh) keys() {
	prk := make([]byte, 32)
	extract(prk, saltVolume, f.id[:], f.base["vmk"].(hexBytes))
	k := f.k
	f.add("keys", map[string]any{}, outputs{
		"prk": hexBytes(prk), "K_data": hexBytes(k.data.key.bytes()), "K_meta": hexBytes(k.meta.key.bytes()),
		"K_log": hexBytes(k.log.key.bytes()), "K_root": hexBytes(k.root.key.bytes()),
		"K_anchor": hexBytes(k.anchor.bytes()), "K_header": hexBytes(k.header.bytes()), "commit": hexBytes(k.commit.bytes()),
	})
}

func (f *fresh) extent(e Extent) {
	payload := randomBytes(1 + mathrand.IntN(3<<16))
	if e.Shift == 0 {
		payload = payload[:min(len(payload), 16384)]
	}
	e.PLen, e.LLen = uint32(len(payload)), uint32(len(payload))
	if e.Comp != 0 {
		e.LLen = 100_000
	}
	e.Object, e.Index, e.Birth = mathrand.Uint64(), mathrand.Uint64(), mathrand.Uint64()
	dst, tags := make([]byte, e.PaddedBytes()), make([]Tag, e.Segments())
	f.ok(f.k.SealExtent(&e, dst, tags, payload))
	address := mathrand.Uint64()
	f.add("extents", map[string]any{
		"nonce": hexBytes(e.Nonce[:]), "kind": e.Kind, "level": e.Level, "comp": e.Comp, "shift": e.Shift,
		"payload": map[string]any{"hex": hexBytes(payload)}, "llen": e.LLen, "object": e.Object, "index": e.Index,
		"birth": e.Birth, "address": address,
	}, extentOutputs(f.k, &e, address, dst, tags))
	f.ok(f.k.OpenSegments(&e, 0, len(tags), dst, dst, tags))
}

func (f *fresh) sectors() {
	slot, plain, sector := uint8(mathrand.IntN(RootSlots)), randomBytes(RootBytes), make([]byte, SectorBytes)
	f.ok(f.k.SealRoot(slot, plain, sector))
	r := RootHash(plain)
	f.add("root_slots", map[string]any{
		"slot": slot, "nonce": hexBytes(sector[:24]), "plaintext": map[string]any{"hex": hexBytes(plain)},
	}, outputs{
		"aad": hexBytes(f.k.rootAAD(slot)), "root_hash": hexBytes(r[:]), "tag": hexBytes(sector[SectorBytes-16:]),
		"sector_sha256": hashOf(sector),
	})
	generation := mathrand.Uint64()
	a := f.k.Anchor(generation, r)
	f.add("anchors", map[string]any{"generation": generation, "root_hash": hexBytes(r[:])}, outputs{"anchor": hexBytes(a[:])})

	mount, seq := [16]byte(randomBytes(16)), mathrand.Uint64()
	p := FramePayload{Acked: mathrand.Uint64(), Base: mathrand.Uint64(), Flags: uint8(mathrand.IntN(4)), Data: randomBytes(mathrand.IntN(FrameDataBytes + 1))}
	payload := make([]byte, FrameBytes)
	f.ok(p.Encode(payload))
	f.ok(f.k.SealFrame(mount, seq, payload, sector))
	f.add("log_frames", map[string]any{
		"nonce": hexBytes(sector[:24]), "mount_id": hexBytes(mount[:]), "base": p.Base, "seq": seq, "acked": p.Acked,
		"flags": p.Flags, "data": map[string]any{"hex": hexBytes(p.Data)},
	}, outputs{
		"aad": hexBytes(f.k.frameAAD(&mount, seq)), "tag": hexBytes(sector[SectorBytes-16:]), "frame_sha256": hashOf(sector),
	})
}

func (f *fresh) slots() {
	for _, pair := range pairs(f.t, f.s) {
		epochs := testEpochs(f.t, 1+mathrand.IntN(MaxEpochs))
		index := uint8(mathrand.IntN(Slots))
		slot, err := NewSlot(f.s, f.id, index, pair.Recipient, epochs)
		f.ok(err)
		kek, err := pair.kek(f.s, f.id, slot.Params)
		f.ok(err)
		defer kek.Erase()
		var entries []any
		for _, e := range epochs {
			entries = append(entries, []any{e.Epoch, hexBytes(e.VMK.Bytes())})
		}
		f.add("key_slots", map[string]any{
			"kek": hexBytes(kek.Bytes()), "salt": hexBytes(slot.Sealed[:32]), "slot": index, "type": slot.Type,
			"params": hexBytes(slot.Params), "epochs": entries,
		}, slotOutputs(f.s, f.id, index, &slot))
	}
}

func (f *fresh) snapshot() {
	secret := randomBytes(32)
	tenant, err := DeriveTenantKeys(testKey(f.t, secret))
	f.ok(err)
	defer tenant.Erase()
	for _, comp := range []uint8{0, 1} {
		chunk, payload := randomBytes(mathrand.IntN(20_000)), randomBytes(1000)
		kind := ChunkKind(1 + mathrand.IntN(3))
		r, object, err := tenant.SealChunk(f.s, kind, comp, chunk, payload, nil)
		f.ok(err)
		f.add("chunks", map[string]any{
			"tenant_secret": hexBytes(secret), "kind": kind, "comp": comp,
			"chunk": map[string]any{"hex": hexBytes(chunk)}, "payload": map[string]any{"hex": hexBytes(payload)},
		}, chunkOutputs(tenant, &r, object))
	}

	sk := testKey(f.t, randomBytes(32))
	id := NewUUID()
	k, err := DeriveSnapshotKeys(f.s, id, sk)
	f.ok(err)
	defer k.Erase()
	m := &Manifest{Volume: f.id, Generation: mathrand.Uint64(), Parent: NewUUID(), Body: randomBytes(mathrand.IntN(5000))}
	sealed, err := k.SealManifest(m)
	f.ok(err)
	kek := testKey(f.t, randomBytes(32))
	slot, err := NewSnapshotSlot(f.s, id, 2, SecretCredential(kek), sk)
	f.ok(err)
	f.add("manifests", map[string]any{
		"snapshot_uuid": hexBytes(id[:]), "snapshot_key": hexBytes(sk.Bytes()), "nonce": hexBytes(sealed[:24]),
		"volume_uuid": hexBytes(m.Volume[:]), "generation": m.Generation, "parent_uuid": hexBytes(m.Parent[:]),
		"body": map[string]any{"hex": hexBytes(m.Body)},
		"slot": map[string]any{
			"kek": hexBytes(kek.Bytes()), "salt": hexBytes(slot.Sealed[:32]), "slot": 2, "type": slot.Type, "params": "",
		},
	}, manifestOutputs(k, sk, sealed, &slot))
}
