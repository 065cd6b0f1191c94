package probe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/device"
)

// ok fails the test if there is an error.
func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// blockDevice is a device that does not know what was written of it, as a block device.
type blockDevice struct{ device.Device }

// imageFile is a sparse image.
func imageFile(t *testing.T, size int64) (*os.File, *device.File) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	ok(t, os.WriteFile(path, nil, 0o600))
	ok(t, os.Truncate(path, size))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	ok(t, err)
	t.Cleanup(func() { f.Close() })
	d, err := device.Open(path, device.OpenOptions{})
	ok(t, err)
	t.Cleanup(func() { ok(t, d.Close()) })
	return f, d
}

func wantBlank(t *testing.T, dev device.Device, want bool) (what string) {
	t.Helper()
	blank, what, err := IsBlank(dev)
	ok(t, err)
	if blank != want {
		t.Fatalf("blank is %v: %q", blank, what)
	}
	return what
}

// TestBlankImage hides one byte in blocks of an image: it is never taken for blank, and is again
// when the byte has gone.
func TestBlankImage(t *testing.T) {
	const size = 64<<20 + 4096*3 + 512 // the last block is not whole
	f, dev := imageFile(t, size)
	wantBlank(t, dev, true)
	for at := int64(0); at < size; at += 4096 * 61 { // TestBlankSectors takes each
		off := at + rand.Int64N(min(4096, size-at))
		_, err := f.WriteAt([]byte{1}, off)
		ok(t, err)
		what := wantBlank(t, dev, false)
		if !strings.Contains(what, fmt.Sprint("byte ", off)) {
			t.Fatalf("at %d: %q", off, what)
		}
		ok(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, min(4096, size-at)))
	}
	_, err := f.WriteAt(make([]byte, 1<<20), 5<<20)
	ok(t, err)
	wantBlank(t, dev, true) // zeros that were written
}

// TestBlankSectors hides one byte in each block of a device that knows what was written.
func TestBlankSectors(t *testing.T) {
	m := device.NewMem(64 << 20)
	p := &prober{dev: m, size: 64 << 20}
	for off := int64(0); off < 64<<20; off += 4096 {
		at := off + off/4096%4096
		m.Corrupt(at, func(b []byte) { b[at%4096] = 1 })
		if got, err := p.find(); got != at || err != nil {
			t.Fatalf("%d instead of %d, %v", got, at, err)
		}
		ok(t, m.Discard(off, 4096))
	}
	wantBlank(t, m, true)
}

// TestBlankSmallDevice: one of up to 256 MiB is read as a whole, also if it is a block device.
func TestBlankSmallDevice(t *testing.T) {
	for _, size := range []int64{64 << 20, 100<<20 + 4096} {
		m := device.NewMem(size)
		wantBlank(t, blockDevice{m}, true)
		for _, off := range []int64{0, 2 << 20, size / 2, size - 1<<20 - 1, size - 1, rand.Int64N(size)} {
			m.Corrupt(off, func(b []byte) { b[off%4096] = 1 })
			wantBlank(t, blockDevice{m}, false)
			m.Corrupt(off, func(b []byte) { b[off%4096] = 0 })
		}
		wantBlank(t, blockDevice{m}, true)
	}
}

// made is a device whose content is a function of the offset of each block; it counts what is
// read.
type made struct {
	device.Device
	size int64
	fill func(off int64) byte
	read map[int64]bool
	lock chan struct{}
}

func newMade(size int64, fill func(off int64) byte) *made {
	return &made{size: size, fill: fill, read: map[int64]bool{}, lock: make(chan struct{}, 1)}
}

func (d *made) Size() (int64, error) { return d.size, nil }

func (d *made) ReadAt(b []byte, off int64) (int, error) {
	d.lock <- struct{}{}
	defer func() { <-d.lock }()
	if off >= d.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), d.size-off))
	for i := 0; i < n; i += 4096 {
		at := off + int64(i)
		d.read[at] = true
		c := d.fill(at)
		for j := range b[i:min(i+4096, n)] {
			b[i+j] = c
		}
	}
	return n, nil
}

// TestBlankDevice: what fills a hundredth of a large device is found wherever it lies, and which
// blocks are looked at nobody can know beforehand.
func TestBlankDevice(t *testing.T) {
	const size = 8 << 40
	one := newMade(size, func(int64) byte { return 0 })
	wantBlank(t, one, true)
	looks := 20
	if testing.Short() {
		looks = 2
	}
	for range looks {
		from := rand.Int64N(size - size/100)
		d := newMade(size, func(off int64) byte {
			if off >= from && off < from+size/100 {
				return 7
			}
			return 0
		})
		wantBlank(t, d, false)
	}
	// A device that holds data wherever the last look did not read.
	cheat := newMade(size, func(off int64) byte {
		if one.read[off] {
			return 0
		}
		return 1
	})
	wantBlank(t, cheat, false)
	same := 0
	for off := range cheat.read {
		if one.read[off] && off > 16<<20 && off < size-16<<20 {
			same++
		}
	}
	if same > probeSamples/2 {
		t.Errorf("%d of %d blocks are the same in two looks", same, probeSamples)
	}
}

// TestMarks: everything that is known by a mark is found, and called by a name, at each of its
// places, on a block device too.
func TestMarks(t *testing.T) {
	const size = 257 << 30 // the last mirror of Btrfs lies at 256 GiB
	m := device.NewMem(size)
	all := append(append(append([]mark{}, ours...), marks...), moving(size)...)
	for i := range all {
		k := &all[i]
		off, fits := k.at(size)
		if !fits {
			t.Fatalf("%+v lies nowhere", k)
		}
		put := func(b string) {
			for j := range len(b) {
				at := off + int64(j)
				m.Corrupt(at, func(s []byte) { s[at%4096] = b[j] })
			}
		}
		put(k.magic)
		for _, dev := range []device.Device{m, blockDevice{m}} {
			if what := wantBlank(t, dev, false); what != k.what {
				t.Errorf("%q at %d is called %q", k.what, off, what)
			}
			if strings.HasPrefix(k.what, "a Linux") || testing.Short() {
				break
			}
		}
		put(strings.Repeat("\x00", len(k.magic)))
	}
	wantBlank(t, m, true)
}

// TestProbeErrors: what cannot be read is not blank.
func TestProbeErrors(t *testing.T) {
	broken := errors.New("broken")
	for _, size := range []int64{64 << 20, 1 << 30} {
		for n := range 12 {
			f := device.NewFault(blockDevice{device.NewMem(size)}, func(call int, _ device.Op, _ int64, _ int) error {
				if call == n {
					return broken
				}
				return nil
			})
			if blank, _, err := IsBlank(f); blank || !errors.Is(err, broken) {
				t.Fatalf("call %d: %v, %v", n, blank, err)
			}
		}
	}
}

// TestSpans: what is left of a range is what is not skipped.
func TestSpans(t *testing.T) {
	skip := []span{{10, 20}, {20, 30}, {50, 60}}
	for _, c := range []struct {
		s    span
		want string
	}{
		{span{0, 10}, "[{0 10}]"}, {span{0, 70}, "[{0 10} {30 50} {60 70}]"}, {span{12, 28}, "[]"}, {span{25, 55}, "[{30 50}]"}, {span{60, 61}, "[{60 61}]"},
	} {
		if got := fmt.Sprint(c.s.without(skip)); got != c.want {
			t.Errorf("%v: %s, want %s", c.s, got, c.want)
		}
	}
	if !bytes.Equal(zeroPiece, make([]byte, probePiece)) {
		t.Error("somebody wrote to the zeros")
	}
}
