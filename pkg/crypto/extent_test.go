package crypto

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"testing"
)

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func TestExtentBounds(t *testing.T) {
	good := Extent{PLen: 65536, LLen: 65536, Kind: KindFileData, Shift: 12, Epoch: 1}
	for _, c := range []struct {
		name string
		edit func(*Extent)
		ok   bool
	}{
		{"good", func(*Extent) {}, true},
		{"largest", func(e *Extent) { e.PLen, e.LLen = 1<<20, 1<<20 }, true},
		{"smallest", func(e *Extent) { e.PLen, e.LLen = 1, 1 }, true},
		{"shift above the extent", func(e *Extent) { e.Shift = 20 }, true},
		{"whole", func(e *Extent) { e.Shift = 0 }, true},
		{"metadata", func(e *Extent) { e.Shift, e.Kind = 0, 1 }, true},
		{"compressed", func(e *Extent) { e.Shift, e.Comp, e.PLen = 0, 1, 77 }, true},
		{"empty", func(e *Extent) { e.PLen, e.LLen = 0, 0 }, false},
		{"too large", func(e *Extent) { e.PLen, e.LLen = 1<<20+1, 1<<20+1 }, false},
		{"huge", func(e *Extent) { e.PLen, e.LLen = 1<<32-1, 1<<32-1 }, false},
		{"shift 11", func(e *Extent) { e.Shift = 11 }, false},
		{"shift 21", func(e *Extent) { e.Shift = 21 }, false},
		{"shift 255", func(e *Extent) { e.Shift = 255 }, false},
		{"llen differs", func(e *Extent) { e.LLen-- }, false},
		{"compressed in segments", func(e *Extent) { e.Comp = 1 }, false},
		{"compressed bomb", func(e *Extent) { e.Comp, e.Shift, e.LLen = 1, 0, 1<<20+1 }, false},
		{"compressed nothing", func(e *Extent) { e.Comp, e.Shift, e.LLen = 1, 0, 0 }, false},
		{"metadata in segments", func(e *Extent) { e.Kind = 1 }, false},
		{"kind 0", func(e *Extent) { e.Kind, e.Shift = 0, 0 }, false},
		{"epoch 0", func(e *Extent) { e.Epoch = 0 }, false},
	} {
		e := good
		c.edit(&e)
		if err := e.Validate(); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestExtentShapes seals extents of many shapes, opens every run of segments, and compares them,
// both in place and in separate buffers.
func TestExtentShapes(t *testing.T) {
	for _, s := range bothSuites {
		k := testEpochKeys(t, s, NewUUID(), 3, randomBytes(32))
		for _, plen := range []int{1, 100, 4095, 4096, 4097, 9000, 65535, 65536, 65537, 200_000, 1 << 20} {
			for _, shift := range []uint8{0, 12, 13, 16, 20} {
				t.Run(fmt.Sprintf("%v/%d/%d", s, plen, shift), func(t *testing.T) {
					testShape(t, k, plen, shift)
				})
			}
		}
	}
}

func testShape(t *testing.T, k *EpochKeys, plen int, shift uint8) {
	e := &Extent{PLen: uint32(plen), LLen: uint32(plen), Kind: KindFileData, Shift: shift, Object: 9, Index: 1 << 50, Birth: 77}
	p, n := e.PaddedBytes(), e.Segments()
	payload, dst, tags := randomBytes(plen), make([]byte, p+64), make([]Tag, n)
	guard := randomBytes(64)
	copy(dst[p:], guard)
	if err := k.SealExtent(e, dst[:p], tags, payload); err != nil {
		t.Fatal(err)
	}
	if e.Epoch != k.Epoch() || e.Nonce == [24]byte{} {
		t.Error("epoch or nonce not set")
	}
	if !bytes.Equal(dst[p:], guard) {
		t.Error("sealing wrote beyond dst")
	}
	padded := append(payload, make([]byte, p-plen)...)
	for range 8 {
		first := mathrand.IntN(n)
		count := 1 + mathrand.IntN(n-first)
		start, _ := e.SegmentRange(first)
		_, end := e.SegmentRange(first + count - 1)
		src := bytes.Clone(dst[start:end])
		got := append(make([]byte, end-start), guard...)
		if err := k.OpenSegments(e, first, count, got[:end-start], src, tags[first:first+count]); err != nil {
			t.Fatalf("segments %d+%d: %v", first, count, err)
		}
		if !bytes.Equal(src, dst[start:end]) {
			t.Fatal("opening changed its source")
		}
		if !bytes.Equal(got[:end-start], padded[start:end]) || !bytes.Equal(got[end-start:], guard) {
			t.Fatalf("segments %d+%d open to something else", first, count)
		}
		if err := k.OpenSegments(e, first, count, src, src, tags[first:first+count]); err != nil {
			t.Fatalf("segments %d+%d in place: %v", first, count, err)
		}
		if !bytes.Equal(src, padded[start:end]) {
			t.Fatalf("segments %d+%d open in place to something else", first, count)
		}
	}
}

func TestNoncesDiffer(t *testing.T) {
	k := testEpochKeys(t, 1, UUID{}, 1, sequence(0))
	seen := map[[24]byte]bool{}
	e := Extent{PLen: 5, LLen: 5, Kind: 1}
	dst, tags := make([]byte, 4096), make([]Tag, 1)
	sector := make([]byte, SectorBytes)
	for range 200 {
		if err := errors.Join(k.SealExtent(&e, dst, tags, []byte("hello")), k.SealRoot(1, nil, sector)); err != nil {
			t.Fatal(err)
		}
		for _, n := range [][24]byte{e.Nonce, [24]byte(sector)} {
			if seen[n] {
				t.Fatal("a nonce repeats")
			}
			seen[n] = true
		}
	}
}

// TestExtentTampering changes every field that an extent is sealed under, and every part of the
// stored bytes.
func TestExtentTampering(t *testing.T) {
	for _, s := range bothSuites {
		id := NewUUID()
		k := testEpochKeys(t, s, id, 1, sequence(0))
		good := Extent{PLen: 3*4096 - 5, LLen: 3*4096 - 5, Kind: KindFileData, Shift: 12, Object: 2, Index: 3, Birth: 4}
		ct, tags := make([]byte, good.PaddedBytes()), make([]Tag, 3)
		if err := k.SealExtent(&good, ct, tags, randomBytes(int(good.PLen))); err != nil {
			t.Fatal(err)
		}
		refuse := func(name string, k *EpochKeys, e Extent, first int, src []byte, tags []Tag) {
			t.Helper()
			dst := bytes.Repeat([]byte{7}, len(src))
			if err := k.OpenSegments(&e, first, len(tags), dst, src, tags); !errors.Is(err, ErrAuthentication) {
				t.Errorf("%v: %s: %v", s, name, err)
			}
			if !zeros(dst) {
				t.Errorf("%v: %s: dst is not zeroed", s, name)
			}
		}
		for i := range good.Nonce {
			e := good
			e.Nonce[i] ^= 1
			refuse(fmt.Sprintf("nonce %d", i), k, e, 0, ct, tags)
		}
		tamperFields(t, k, good, ct, tags)
		for _, i := range []int{0, 4095, 4096, len(ct) - 1} {
			bad := bytes.Clone(ct)
			bad[i] ^= 0x80
			refuse("ciphertext", k, good, 0, bad, tags)
		}
		for i := range tags {
			bad := append([]Tag(nil), tags...)
			bad[i][15] ^= 1
			refuse("tag", k, good, 0, ct, bad)
		}
		refuse("segment moved", k, good, 1, ct[:4096], tags[:1])
		swapped := append(bytes.Clone(ct[4096:8192]), ct[:4096]...)
		refuse("segments swapped", k, good, 0, swapped, []Tag{tags[1], tags[0]})
		refuse("another volume", testEpochKeys(t, s, NewUUID(), 1, sequence(0)), good, 0, ct, tags)
		refuse("another key", testEpochKeys(t, s, id, 1, sequence(1)), good, 0, ct, tags)
		refuse("another epoch's keys", testEpochKeys(t, s, id, 2, sequence(0)), good, 0, ct, tags)
		refuse("another suite", testEpochKeys(t, 3-s, id, 1, sequence(0)), good, 0, ct, tags)
		for _, c := range [][2]int{{-1, 1}, {0, 0}, {0, -1}, {3, 1}, {1, 3}, {1 << 62, 1 << 62}} {
			e := good
			if err := k.OpenSegments(&e, c[0], c[1], nil, nil, nil); !errors.Is(err, ErrAuthentication) {
				t.Errorf("%v: run %v: %v", s, c, err)
			}
		}
	}
}

// tamperFields changes each field of an extent of three segments.
func tamperFields(t *testing.T, k *EpochKeys, good Extent, ct []byte, tags []Tag) {
	t.Helper()
	for name, edit := range map[string]func(*Extent){
		"birth":        func(e *Extent) { e.Birth++ },
		"epoch":        func(e *Extent) { e.Epoch++ },
		"plen":         func(e *Extent) { e.PLen++; e.LLen++ },
		"llen":         func(e *Extent) { e.LLen++ },
		"kind":         func(e *Extent) { e.Kind = 5 },
		"level":        func(e *Extent) { e.Level ^= 1 },
		"comp":         func(e *Extent) { e.Comp = 1 },
		"shift 0":      func(e *Extent) { e.Shift = 0 },
		"shift 13":     func(e *Extent) { e.Shift = 13 },
		"object":       func(e *Extent) { e.Object ^= 1 << 63 },
		"index":        func(e *Extent) { e.Index ^= 1 << 63 },
		"longer":       func(e *Extent) { e.PLen += 4096; e.LLen += 4096 },
		"out of range": func(e *Extent) { e.PLen, e.LLen = 4096, 4096 },
	} {
		e := good
		edit(&e)
		for i := range 3 { // each segment alone, so that lengths fit
			dst, src := bytes.Repeat([]byte{7}, 4096), ct[4096*i:4096*(i+1)]
			err := k.OpenSegments(&e, i, 1, dst, src, tags[i:i+1])
			if !errors.Is(err, ErrAuthentication) && !errors.Is(err, errBuffer) {
				t.Errorf("%v: %s: %v", k.suite, name, err)
			}
			if !zeros(dst) {
				t.Errorf("%v: %s: dst is not zeroed", k.suite, name)
			}
		}
	}
}

func TestExtentBuffers(t *testing.T) {
	k := testEpochKeys(t, 1, UUID{}, 1, sequence(0))
	e := Extent{PLen: 5000, LLen: 5000, Kind: KindFileData, Shift: 12}
	for _, c := range [][3]int{{8191, 2, 5000}, {8193, 2, 5000}, {8192, 1, 5000}, {8192, 3, 5000}, {8192, 2, 4999}, {8192, 2, 5001}, {0, 0, 0}} {
		if err := k.SealExtent(&e, make([]byte, c[0]), make([]Tag, c[1]), make([]byte, c[2])); !errors.Is(err, errBuffer) {
			t.Errorf("seal with buffers %v: %v", c, err)
		}
		if err := k.OpenSegments(&e, 0, 2, make([]byte, c[0]), make([]byte, 8192), make([]Tag, c[1])); c[2] == 5000 && !errors.Is(err, errBuffer) {
			t.Errorf("open with buffers %v: %v", c, err)
		}
	}
}

func TestSealingDoesNotAllocatePerSegment(t *testing.T) {
	for _, s := range bothSuites {
		k := testEpochKeys(t, s, UUID{}, 1, sequence(0))
		e := Extent{PLen: 1 << 20, LLen: 1 << 20, Kind: KindFileData, Shift: 12}
		dst, tags := make([]byte, 1<<20), make([]Tag, 256)
		n := testing.AllocsPerRun(20, func() {
			if err := errors.Join(k.SealExtent(&e, dst, tags, dst), k.OpenSegments(&e, 0, 256, dst, dst, tags)); err != nil {
				t.Fatal(err)
			}
		})
		if n > 16 { // race builds and pool misses add some
			t.Errorf("%v: %v allocations for 512 segments", s, n)
		}
	}
}

func TestSectors(t *testing.T) {
	for _, s := range bothSuites {
		id, mount := NewUUID(), [16]byte(randomBytes(16))
		k := testEpochKeys(t, s, id, 1, sequence(0))
		root, frame, got := make([]byte, SectorBytes), make([]byte, SectorBytes), make([]byte, RootBytes)
		payload := make([]byte, FrameBytes)
		p := FramePayload{Acked: 5, Base: 6, Flags: FrameFirst | FrameLast, Data: randomBytes(100)}
		if err := errors.Join(k.SealRoot(3, []byte("root"), root), p.Encode(payload), k.SealFrame(mount, 8, payload, frame)); err != nil {
			t.Fatal(err)
		}
		if err := k.OpenRoot(3, root, got); err != nil || string(got[:4]) != "root" || !zeros(got[4:]) {
			t.Errorf("root: %v", err)
		}
		if RootHash(got) != RootHash([]byte("root")) {
			t.Error("the hash of a root depends on its padding")
		}
		if err := k.OpenFrame(mount, 8, frame, got); err != nil || !bytes.Equal(got, payload) {
			t.Errorf("frame: %v", err)
		}
		// In the memory that it is sealed in.
		copy(frame[nonceBytes:], payload)
		if err := k.SealFrame(mount, 8, frame[nonceBytes:nonceBytes+FrameBytes], frame); err != nil {
			t.Fatal(err)
		}
		if err := k.OpenFrame(mount, 8, frame, got); err != nil || !bytes.Equal(got, payload) {
			t.Errorf("frame sealed in place: %v", err)
		}
		refuse := func(name string, err error) {
			t.Helper()
			if !errors.Is(err, ErrAuthentication) || !zeros(got) {
				t.Errorf("%v: %s: %v", s, name, err)
			}
		}
		refuse("root of another slot", k.OpenRoot(4, root, got))
		refuse("frame as root", k.OpenRoot(3, frame, got))
		refuse("frame of another seq", k.OpenFrame(mount, 9, frame, got))
		refuse("frame of another mount", k.OpenFrame([16]byte{}, 8, frame, got))
		other := testEpochKeys(t, s, id, 2, sequence(0))
		refuse("root of another epoch", other.OpenRoot(3, root, got))
		refuse("zeros", k.OpenRoot(3, make([]byte, SectorBytes), got))
		for i := range root {
			root[i] ^= 4
			if err := k.OpenRoot(3, root, got); !errors.Is(err, ErrAuthentication) {
				t.Fatalf("flip at %d: %v", i, err)
			}
			root[i] ^= 4
		}
		for name, err := range map[string]error{
			"long root":      k.SealRoot(0, make([]byte, RootBytes+1), root),
			"short sector":   k.SealRoot(0, nil, root[:SectorBytes-1]),
			"short payload":  k.SealFrame(mount, 0, payload[1:], frame),
			"short source":   k.OpenRoot(0, root[1:], got),
			"short target":   k.OpenRoot(0, root, got[1:]),
			"data too long":  (&FramePayload{Data: make([]byte, FrameDataBytes+1)}).Encode(payload),
			"short encoding": (&FramePayload{}).Encode(payload[1:]),
		} {
			if !errors.Is(err, errBuffer) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if k.SealRoot(16, nil, root) == nil {
			t.Error("root slot 16 was sealed")
		}
	}
}

func FuzzDecodeFramePayload(f *testing.F) {
	b := make([]byte, FrameBytes)
	_ = (&FramePayload{Acked: 1, Base: 2, Flags: FrameFirst, Data: []byte("data")}).Encode(b)
	f.Add(b[:64])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		b := make([]byte, FrameBytes)
		copy(b, in)
		p, err := DecodeFramePayload(b)
		if err != nil {
			return
		}
		again := make([]byte, FrameBytes)
		if err := p.Encode(again); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("encodes to other bytes: %v", err)
		}
	})
}

// FuzzOpenSegments opens extents with fields that an attacker chose.
func FuzzOpenSegments(f *testing.F) {
	k := testEpochKeys(f, 1, UUID{}, 1, sequence(0))
	f.Add(uint32(4096), uint32(4096), uint8(6), uint8(0), uint8(12), 0, 1, []byte("x"))
	f.Add(uint32(1<<20), uint32(1<<20), uint8(6), uint8(0), uint8(20), 255, 1, []byte{})
	f.Add(uint32(1<<32-1), uint32(0), uint8(0), uint8(9), uint8(255), -1, 1<<62, []byte{})
	f.Fuzz(func(t *testing.T, plen, llen uint32, kind, comp, shift uint8, first, count int, src []byte) {
		e := &Extent{PLen: plen, LLen: llen, Kind: kind, Comp: comp, Shift: shift, Epoch: 1}
		tags := make([]Tag, max(0, min(count, 1024)))
		if err := k.OpenSegments(e, first, count, make([]byte, len(src)), src, tags); err == nil {
			t.Fatal("a forged extent opens")
		}
	})
}
