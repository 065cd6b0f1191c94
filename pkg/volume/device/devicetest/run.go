package devicetest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealvol/sealvol/pkg/volume/device"
)

const sector = device.SectorBytes

// Kind is a kind of device under test.
type Kind struct {
	// New creates a device of zeros with the given size in bytes, a multiple of device.SectorBytes.
	// It closes and removes the device at the end of the test.
	New func(t *testing.T, sizeBytes int64) device.Device
	// Reopen closes a device and opens the same storage again. It is nil if the content does not
	// survive Close.
	Reopen func(t *testing.T, d device.Device) device.Device
	// KnowsData means that the device must implement device.Allocated.
	KnowsData bool
}

// Run tests a kind of device.
func Run(t *testing.T, k Kind) {
	t.Run("ReadWrite", func(t *testing.T) { readWrite(t, k) })
	t.Run("End", func(t *testing.T) { atEnd(t, k) })
	t.Run("Refused", func(t *testing.T) { refused(t, k) })
	t.Run("Discard", func(t *testing.T) { discard(t, k) })
	t.Run("Data", func(t *testing.T) { data(t, k) })
	t.Run("Concurrent", func(t *testing.T) { concurrent(t, k) })
	t.Run("Model", func(t *testing.T) { model(t, k) })
}

// fill returns n bytes that differ for each seed. With odd, they start one byte after a page
// boundary, so direct I/O cannot use them directly.
func fill(n int, seed uint64, odd bool) []byte {
	b := device.AlignedBytes(n + sector)
	if odd {
		b = b[1:]
	}
	b = b[:n]
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range b {
		b[i] = byte(1 + rng.IntN(255)) // never zero, so that a hole does not look like data
	}
	return b
}

func write(t *testing.T, d device.Device, b []byte, off int64) {
	t.Helper()
	if n, err := d.WriteAt(b, off); n != len(b) || err != nil {
		t.Fatalf("WriteAt %d bytes at %d: %d, %v", len(b), off, n, err)
	}
}

func expect(t *testing.T, d device.Device, want []byte, off int64) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := d.ReadAt(got, off); n != len(got) || err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("ReadAt %d bytes at %d: %d, %v", len(got), off, n, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%d bytes at %d are not what was written there", len(want), off)
	}
}

func sync(t *testing.T, d device.Device) {
	t.Helper()
	if err := d.Sync(); err != nil {
		t.Fatalf("Sync: %v", err)
	}
}

func readWrite(t *testing.T, k Kind) {
	d := k.New(t, 64*sector)
	if n, err := d.Size(); n != 64*sector || err != nil {
		t.Fatalf("Size: %d, %v", n, err)
	}
	expect(t, d, make([]byte, 64*sector), 0)
	for i, odd := range []bool{false, true} {
		b := fill(3*sector, uint64(i), odd)
		before := bytes.Clone(b)
		write(t, d, b, 5*sector)
		if !bytes.Equal(b, before) {
			t.Fatal("WriteAt changed its buffer")
		}
		expect(t, d, b, 5*sector)
		got := fill(3*sector, 99, odd)
		if n, err := d.ReadAt(got, 5*sector); n != len(got) || err != nil || !bytes.Equal(got, b) {
			t.Fatalf("ReadAt, one byte off a page boundary: %v: %d, %v", odd, n, err)
		}
		expect(t, d, make([]byte, 5*sector), 0)
		expect(t, d, make([]byte, 8*sector), 8*sector)
	}
	sync(t, d)
	if k.Reopen != nil {
		want := make([]byte, 64*sector)
		if _, err := d.ReadAt(want, 0); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		expect(t, k.Reopen(t, d), want, 0)
	}
}

func atEnd(t *testing.T, k Kind) {
	d := k.New(t, 8*sector)
	b := fill(2*sector, 1, false)
	write(t, d, b, 6*sector)
	got := make([]byte, 4*sector)
	if n, err := d.ReadAt(got, 6*sector); n != 2*sector || !errors.Is(err, io.EOF) || !bytes.Equal(got[:n], b) {
		t.Errorf("ReadAt beyond the end: %d, %v; want what there is, and io.EOF", n, err)
	}
	for _, off := range []int64{8 * sector, 9 * sector, 1 << 40} {
		if n, err := d.ReadAt(got, off); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("ReadAt at %d, behind the end: %d, %v; want io.EOF", off, n, err)
		}
	}
	if n, err := d.ReadAt(nil, 0); n != 0 || err != nil {
		t.Errorf("ReadAt of nothing: %d, %v", n, err)
	}
}

// refused sends a device requests that its owner must never send. If a write enlarged an image
// file, the file would look like a device that the user enlarged.
func refused(t *testing.T, k Kind) {
	d := k.New(t, 8*sector)
	b := fill(8*sector, 1, false)
	write(t, d, b, 0)
	for _, c := range []struct{ off, n int64 }{
		{1, sector}, {512, sector}, {0, 100}, {0, sector + 512}, {-sector, sector},
		{8 * sector, sector}, {7 * sector, 2 * sector}, {1 << 40, sector}, {1<<63 - sector, sector},
	} {
		if n, err := d.WriteAt(make([]byte, c.n), c.off); n != 0 || err == nil {
			t.Errorf("WriteAt %d bytes at %d: %d, %v; want it refused", c.n, c.off, n, err)
		}
	}
	for _, c := range []struct{ off, n int64 }{
		{1, sector}, {0, 100}, {-sector, sector}, {0, 0}, {0, -sector},
		{8 * sector, sector}, {7 * sector, 2 * sector}, {1 << 40, sector}, {sector, 1<<63 - sector},
	} {
		if err := d.Discard(c.off, c.n); err == nil {
			t.Errorf("Discard of %d bytes at %d was not refused", c.n, c.off)
		}
	}
	sync(t, d)
	if n, err := d.Size(); n != 8*sector || err != nil {
		t.Errorf("what was refused changed the size: %d, %v", n, err)
	}
	expect(t, d, b, 0)
}

func discard(t *testing.T, k Kind) {
	d := k.New(t, 256*sector)
	b := fill(256*sector, 1, false)
	write(t, d, b, 0)
	sync(t, d)
	if err := d.Discard(64*sector, 128*sector); err != nil && !errors.Is(err, device.ErrNotSupported) {
		t.Fatalf("Discard: %v", err)
	}
	expect(t, d, b[:64*sector], 0)
	expect(t, d, b[192*sector:], 192*sector)
	again := fill(2*sector, 2, false)
	write(t, d, again, 100*sector)
	sync(t, d)
	expect(t, d, again, 100*sector)
	if k.Reopen != nil {
		d = k.Reopen(t, d)
		expect(t, d, b[:64*sector], 0)
		expect(t, d, again, 100*sector)
		expect(t, d, b[192*sector:], 192*sector)
	}
}

// data tests NextData, which detects blank devices: it must report every range that was written.
func data(t *testing.T, k Kind) {
	d := k.New(t, 1024*sector)
	a, ok := d.(device.Allocated)
	if ok {
		if _, _, err := a.NextData(0); errors.Is(err, device.ErrNotSupported) {
			ok = false
		}
	}
	if !ok {
		if k.KnowsData {
			t.Fatal("the device does not tell what was written")
		}
		return // a device without this information cannot be wrong
	}
	written := map[int64]bool{}
	for _, s := range []int64{0, 1, 17, 500, 501, 1023} {
		write(t, d, fill(sector, uint64(s), false), s*sector)
		written[s] = true
	}
	sync(t, d)
	told := map[int64]bool{}
	for off := int64(0); ; {
		from, to, err := a.NextData(off)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || from < off || to <= from || to > 1024*sector {
			t.Fatalf("NextData(%d): %d to %d, %v", off, from, to, err)
		}
		for s := from / sector; s*sector < to; s++ {
			told[s] = true
		}
		off = to
	}
	for s := range written {
		if !told[s] {
			t.Errorf("sector %d was written, NextData says that it was not", s)
		}
	}
	if _, _, err := a.NextData(1024 * sector); !errors.Is(err, io.EOF) {
		t.Errorf("NextData at the end: %v; want io.EOF", err)
	}
}

func concurrent(t *testing.T, k Kind) {
	d := k.New(t, 64*sector)
	var g errgroup.Group
	for w := range 8 {
		g.Go(func() error {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			for range 100 {
				off := int64(w*8+rng.IntN(8)) * sector
				b := fill(sector, rng.Uint64(), rng.IntN(2) == 0)
				if _, err := d.WriteAt(b, off); err != nil {
					return err
				}
				got := make([]byte, sector)
				if _, err := d.ReadAt(got, off); err != nil && !errors.Is(err, io.EOF) {
					return err
				}
				if !bytes.Equal(got, b) {
					return errors.New("a write that had returned was not seen by a read")
				}
				if rng.IntN(10) == 0 {
					if err := d.Sync(); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

// model compares the device with a copy in memory. The content of a discarded range is undefined
// until it is written again.
func model(t *testing.T, k Kind) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	const sectors = 128
	d := k.New(t, sectors*sector)
	want, unknown := make([]byte, sectors*sector), [sectors]bool{}
	for range 400 {
		first := rng.IntN(sectors)
		n := 1 + rng.IntN(min(20, sectors-first))
		switch rng.IntN(10) {
		case 0, 1, 2, 3:
			b := fill(n*sector, rng.Uint64(), rng.IntN(2) == 0)
			write(t, d, b, int64(first)*sector)
			copy(want[first*sector:], b)
			clear(unknown[first : first+n])
		case 4:
			err := d.Discard(int64(first)*sector, int64(n)*sector)
			if err != nil && !errors.Is(err, device.ErrNotSupported) {
				t.Fatal(err)
			}
			for s := first; s < first+n; s++ {
				unknown[s] = unknown[s] || err == nil
			}
		case 5:
			sync(t, d)
			if k.Reopen != nil && rng.IntN(4) == 0 {
				d = k.Reopen(t, d)
			}
		default:
			got := make([]byte, n*sector)
			if _, err := d.ReadAt(got, int64(first)*sector); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			for s := range n {
				if !unknown[first+s] && !bytes.Equal(got[s*sector:(s+1)*sector], want[(first+s)*sector:(first+s+1)*sector]) {
					t.Fatalf("sector %d is not what was written", first+s)
				}
			}
		}
	}
}
