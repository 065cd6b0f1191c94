package device_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
)

// TestCrash checks the images after a power loss: synced data is kept, other data is old or new in
// pieces of 512 bytes, and every possibility occurs.
func TestCrash(t *testing.T) {
	page := func(v byte) []byte { return bytes.Repeat([]byte{v}, sector) }
	m := device.NewMem(8 * sector)
	put := func(v byte, s int64) {
		if _, err := m.WriteAt(page(v), s*sector); err != nil {
			t.Fatal(err)
		}
	}
	for s := range int64(4) {
		put(1, s)
	}
	if err := m.Sync(); err != nil {
		t.Fatal(err)
	}
	put(2, 1)
	put(3, 1)
	if err := m.Discard(2*sector, sector); err != nil {
		t.Fatal(err)
	}
	put(2, 5)

	at := func(d *device.Mem, s int64) []byte {
		b := make([]byte, sector)
		if _, err := d.ReadAt(b, s*sector); err != nil {
			t.Fatal(err)
		}
		return b
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for mode, want := range map[device.CrashMode][6]byte{
		device.CrashLoseAll:  {1, 1, 1, 1, 0, 0},
		device.CrashKeepAll:  {1, 3, 0, 1, 0, 2},
		device.CrashDiscards: {1, 1, 0, 1, 0, 0},
	} {
		d := m.Crash(mode, rng)
		for s, v := range want {
			if !bytes.Equal(at(d, int64(s)), page(v)) {
				t.Errorf("mode %d: sector %d is not %d", mode, s, v)
			}
		}
	}
	seen := map[[2]byte]bool{} // sector, value
	torn := false
	for range 200 {
		d := m.Crash(device.CrashMix, rng)
		for s, may := range [][]byte{{1}, {1, 2, 3}, {0, 1}, {1}, {0}, {0, 2}} {
			b := at(d, int64(s))
			for o := 0; o < sector; o += 512 {
				v := b[o]
				if !bytes.Contains(may, []byte{v}) || !bytes.Equal(b[o:o+512], page(v)[:512]) {
					t.Fatalf("sector %d holds %d", s, v)
				}
				seen[[2]byte{byte(s), v}] = true
				torn = torn || v != b[0]
			}
		}
	}
	if len(seen) != 10 || !torn {
		t.Errorf("of ten possible contents %d were seen; a torn sector: %v", len(seen), torn)
	}
	if !bytes.Equal(at(m, 1), page(3)) {
		t.Error("Crash changed the device itself")
	}
}

// TestCutAfter loses power at a call: the call takes effect, and later calls do not.
func TestCutAfter(t *testing.T) {
	b := bytes.Repeat([]byte{1}, sector)
	m := device.NewMem(8 * sector)
	m.CutAfter(2)
	if _, err := m.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := m.Sync(); !errors.Is(err, device.ErrCrashed) {
		t.Fatalf("Sync cut by the power: %v", err)
	}
	if m.Alive() {
		t.Error("it has power still")
	}
	_, errR := m.ReadAt(b, 0)
	_, errW := m.WriteAt(b, 0)
	_, _, errN := m.NextData(0)
	for i, err := range []error{errR, errW, errN, m.Sync(), m.Discard(0, sector)} {
		if !errors.Is(err, device.ErrCrashed) {
			t.Errorf("call %d without power: %v", i, err)
		}
	}
	d := m.Crash(device.CrashLoseAll, nil)
	if d.UsedBytes() != 0 {
		t.Error("a Sync that failed made something durable")
	}
	if c := m.Crash(device.CrashKeepAll, nil); c.UsedBytes() != sector || !c.Alive() {
		t.Error("what was written before the cut is not there")
	}
}
