package pinned_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// TestDamage flips one bit in something that reading a snapshot reads. The content is the same,
// because there is a second copy, or the error names the place.
func TestDamage(t *testing.T) {
	h := newHistory(t, 4, 128<<20)
	h.Steps(600)
	_, err := h.V.CreateSnapshot("s")
	ok(t, err)
	h.Close()
	dev := &watched{Device: h.Dev}
	want, err := readSnapshot(t, dev, "s")
	ok(t, err)
	rng := rand.New(rand.NewPCG(4, 4))
	reads, failed := dev.take(), 0
	for range 150 {
		r := reads[rng.IntN(len(reads))]
		c, at := h.Dev.Clone(), r[0]+rng.Int64N(r[1])
		c.Corrupt(at, func(b []byte) { b[at%device.SectorBytes] ^= 1 << rng.IntN(8) })
		got, err := readSnapshot(t, c, "s")
		switch {
		case err == nil:
			ok(t, got.same(want))
			continue
		case r[0] < systemBytes:
			t.Fatalf("byte %d: header and roots have a second copy: %v", at, err)
		case !errors.Is(err, vfs.ErrCorrupt) || errors.Is(err, pinned.ErrDeleted):
			t.Fatalf("byte %d: %v", at, err)
		}
		for _, part := range []string{`snapshot "s"`, "inode ", "extent at ", "does not verify"} {
			if !strings.Contains(err.Error(), part) {
				t.Fatalf("byte %d: the error does not say %q: %v", at, part, err)
			}
		}
		failed++
	}
	if failed < 30 {
		t.Errorf("only %d of 150 were found to be damaged", failed)
	}
}

// readSnapshot reads all facts and data of a snapshot.
func readSnapshot(t *testing.T, dev device.Device, name string) (*facts, error) {
	p, err := pinned.Open(dev, pinned.Options{Credential: newKey(t), Memory: 1})
	if err != nil {
		return nil, err
	}
	defer p.Close()
	s, err := p.Snapshot(name)
	if err != nil {
		return nil, err
	}
	a := &applier{facts: newFacts(), to: s}
	return a.facts, pinned.Diff(t.Context(), nil, s, a)
}

// TestDamagedAround damages what leads to a snapshot.
func TestDamagedAround(t *testing.T) {
	h := newHistory(t, 5, 96<<20)
	h.Steps(50)
	_, err := h.V.CreateSnapshot("s")
	ok(t, err)
	ok(t, h.V.Close())
	zero := make([]byte, device.SectorBytes)
	wipe := func(from, to int64) func(dev *device.Mem) {
		return func(dev *device.Mem) {
			for off := from; off < to; off += device.SectorBytes {
				_, err := dev.WriteAt(zero, off)
				ok(t, err)
			}
		}
	}
	for _, c := range []struct {
		name string
		do   func(dev *device.Mem)
		want error
	}{
		{"header A", wipe(0, 64<<10), nil},
		{"header B", wipe(1<<20, 1<<20+64<<10), nil},
		{"both headers", wipe(0, 2<<20), volume.ErrNotSealvol},
		{"roots of one array", wipe(64<<10, 128<<10+64<<10), nil},
		{"all roots", func(dev *device.Mem) { wipe(64<<10, 1<<20)(dev); wipe(1<<20+64<<10, 2<<20)(dev) }, volume.ErrNoRoot},
	} {
		dev := h.Dev.Clone()
		c.do(dev)
		if _, err := readSnapshot(t, dev, "s"); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
