package volume

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// blockDevice is a device that does not know what was written of it, as a block device.
type blockDevice struct{ device.Device }

func wantBlank(t *testing.T, dev device.Device, want bool) (what string) {
	t.Helper()
	blank, what, err := IsBlank(dev)
	ok(t, err)
	if blank != want {
		t.Fatalf("blank is %v: %q", blank, what)
	}
	return what
}

// TestBlankWindows: a volume whose first two MiB and last MiB were wiped was blank to versions
// before.
func TestBlankWindows(t *testing.T) {
	m := device.NewMem(96 << 20)
	ok(t, Format(m, FormatOptions{Recipient: testCred(t)}))
	for off := int64(0); off < 96<<20; off += 4096 {
		if off < 2<<20 || off >= 95<<20 {
			m.Corrupt(off, func(b []byte) { clear(b) })
		}
	}
	if what := wantBlank(t, m, false); !strings.Contains(what, "unknown data") {
		t.Fatal(what)
	}
	wantBlank(t, blockDevice{m}, false)
	if err := Format(m, FormatOptions{Recipient: testCred(t)}); !errors.Is(err, ErrNotEmpty) {
		t.Fatal(err)
	}
	ok(t, Format(m, FormatOptions{Recipient: testCred(t), Force: true}))
}

// TestUnfinished cuts Format off after each of its writes: the device is blank, or known as
// unfinished, or holds the volume; and what somebody else has put there is never called unfinished.
func TestUnfinished(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	whole := device.NewMem(64 << 20)
	ok(t, Format(whole, FormatOptions{Recipient: testCred(t)}))
	if is, err := IsUnfinished(whole); is || err != nil {
		t.Fatal("a whole volume is unfinished", err)
	}
	unfinished := 0
	for n := 1; n < whole.Writes(); n++ {
		for _, mode := range []device.CrashMode{device.CrashLoseAll, device.CrashKeepAll, device.CrashMix} {
			m := device.NewMem(64 << 20)
			m.CutAfter(n)
			if err := Format(m, FormatOptions{Recipient: testCred(t)}); err == nil {
				t.Fatal("not cut off")
			}
			c := m.Crash(mode, rng)
			is, err := IsUnfinished(c)
			ok(t, err)
			if v, err := Open(c.Clone(), Options{Credential: testCred(t)}); err == nil {
				ok(t, v.Close())
				if is {
					t.Fatalf("cut %d: the volume is called unfinished", n)
				}
				continue
			}
			if !is {
				t.Fatalf("cut %d: neither a volume nor unfinished", n)
			}
			if blank, _, err := IsBlank(c); !blank && err == nil {
				unfinished++
				precious(t, c.Clone(), rng)
			}
			ok(t, Format(c, FormatOptions{Recipient: testCred(t), Force: true}))
			v, err := Open(c, Options{Credential: testCred(t)})
			ok(t, err)
			ok(t, v.Close())
		}
	}
	if unfinished == 0 {
		t.Fatal("nothing was ever cut in the middle")
	}
}

// precious puts something onto an unfinished device that is not Format's.
func precious(t *testing.T, m *device.Mem, rng *rand.Rand) {
	t.Helper()
	off := layout.LogOff + 4096*rng.Int64N(400)
	if rng.IntN(3) == 0 {
		off = (64<<20 - 4096*rng.Int64N(8000)) - 4096
	}
	put := func(b []byte) { copy(b, "precious") }
	if rng.IntN(3) == 0 { // a partition table, or a swap header, which have no more than a block
		off, put = 0, func(b []byte) { copy(b[510:], "\x55\xaa") }
		if rng.IntN(2) == 0 {
			put = func(b []byte) { copy(b[4086:], "SWAPSPACE2") }
		}
	}
	m.Corrupt(off, put)
	if is, err := IsUnfinished(m); is || err != nil {
		t.Fatalf("data at %d: unfinished %v, %v", off, is, err)
	}
}
