package volume

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

var anchorCuts = flag.Int("anchor.cuts", 1000, "cuts of the crash model of anchors")

// anchorHolder is where anchors are kept: it has one, and some may be on their way
// to it, to arrive at any time or never. It never goes back.
type anchorHolder struct {
	held  *Anchor
	under []Anchor
}

func (h *anchorHolder) arrive(rng *rand.Rand) {
	for len(h.under) > 0 && rng.IntN(2) == 0 {
		if a := h.under[0]; h.held == nil || a.Generation > h.held.Generation {
			h.held = &a
		}
		h.under = h.under[1:]
	}
}

// anchorLife works on a device through several crashes; each time it is opened
// with what the holder has. It returns the number of images that were opened.
func anchorLife(t *testing.T, seed uint64) (cuts int) {
	rng := rand.New(rand.NewPCG(seed, 21))
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	var h anchorHolder
	var past []*device.Mem // images whose newest root is older than what the holder has, in the end
	for round := range 6 {
		v, err := anchored(t, dev, h.held, false)
		if err != nil {
			t.Fatalf("seed %d, round %d: %v", seed, round, err)
		}
		r := &crashRun{v: v, rng: rng, states: []modelState{{files: map[string][]byte{}}}, inos: map[string]vfs.Ino{}}
		// Each life has its own directory, so that the model is empty at its start.
		base, err := v.Mkdir(crashReq, vfs.RootIno, fmt.Sprint("life", round), 0o755)
		ok(t, err)
		r.base = base.Ino
		if rng.IntN(3) > 0 {
			dev.CutAfter(1 + rng.IntN(120))
		}
		var opErr error
		for i := 0; opErr == nil && i < 150; i++ {
			switch rng.IntN(12) {
			case 0:
				var a Anchor
				if a, opErr = v.OfferAnchor(); opErr == nil {
					h.under = append(h.under, a)
				}
			case 1:
				h.arrive(rng)
			case 2:
				if h.held != nil {
					if err := v.ConfirmAnchor(*h.held); err != nil {
						t.Fatalf("seed %d: %v", seed, err)
					}
				}
			case 3:
				past = append(past, dev.Clone())
			default:
				opErr = r.step()
			}
		}
		if opErr != nil && !errors.Is(opErr, device.ErrCrashed) && !errors.Is(opErr, vfs.ErrReadOnly) {
			t.Fatalf("seed %d: %v", seed, opErr)
		}
		if opErr == nil && rng.IntN(2) == 0 { // clean
			if v.Close() == nil {
				a, used := v.LastAnchor()
				if used {
					h.under = append(h.under, a)
				}
			}
		} else {
			dev.Cut()
			v.fail(device.ErrCrashed)
			_ = v.Close() // it has failed: nothing is written
		}
		var next *device.Mem
		for i := range 8 {
			img := dev.Crash([]device.CrashMode{device.CrashLoseAll, device.CrashKeepAll, device.CrashMix}[min(i, 2)], rng)
			// Whatever was given out may have arrived by now.
			a := h.held
			if n := len(h.under); n > 0 && rng.IntN(2) == 0 {
				a = &h.under[rng.IntN(n)]
			}
			if rng.IntN(2) == 0 { // cut once more while it is opened
				img.CutAfter(1 + rng.IntN(24))
				if v, err := anchored(t, img, a, false); err == nil {
					v.fail(device.ErrCrashed)
					_ = v.Close()
				} else if !errors.Is(err, device.ErrCrashed) {
					t.Fatalf("seed %d, round %d, image %d: %v", seed, round, i, err)
				}
				img.Cut()
				img = img.Crash(device.CrashMix, rng)
			}
			cuts++
			v, err := anchored(t, img.Clone(), a, rng.IntN(2) == 0)
			if err != nil {
				t.Fatalf("seed %d, round %d, image %d, false alarm: %v", seed, round, i, err)
			}
			_ = v.Close()
			next = img
		}
		dev = next
	}
	if h.held == nil {
		return cuts
	}
	for _, img := range past {
		if at := newestOf(t, img).Generation; at < h.held.Generation {
			if _, err := anchored(t, img, h.held, true); !errors.Is(err, ErrRolledBack) {
				t.Fatalf("seed %d: an image of generation %d opens with the anchor of %d: %v", seed, at, h.held.Generation, err)
			}
			fork(t, seed, img, h.held)
			break
		}
	}
	return cuts
}

// fork goes on with an old image beyond the generation of an anchor.
func fork(t *testing.T, seed uint64, img *device.Mem, a *Anchor) {
	img = img.Crash(device.CrashKeepAll, nil)
	v := mustOpen(t, img, Options{CommitInterval: -1, Memory: minMemory})
	for v.durable.generation() <= a.Generation {
		ok(t, v.Sync(vfs.RootIno))
	}
	mustClose(t, v)
	if _, err := anchored(t, img, a, true); !errors.Is(err, ErrForked) {
		t.Fatalf("seed %d: a fork opens with the anchor: %v", seed, err)
	}
}

// Rollback and fork are refused, and no crash makes a false alarm.
func TestCrashAnchors(t *testing.T) {
	seed := *crashSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	want := *anchorCuts
	if testing.Short() {
		want = min(want, 100)
	}
	t.Logf("-crash.seed=%d", seed)
	cuts := 0
	for cuts < want {
		cuts += anchorLife(t, seed)
		seed++
	}
	t.Logf("%d cuts", cuts)
}
