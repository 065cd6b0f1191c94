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

// anchorRun is a device that goes through several crashes, and the holder of its anchors.
type anchorRun struct {
	t    *testing.T
	seed uint64
	rng  *rand.Rand
	dev  *device.Mem
	h    anchorHolder
	past []*device.Mem // images whose newest root is older than what the holder has, in the end
	cuts int           // images that were opened
}

// anchorLife works on a device through several crashes; each time it is opened
// with what the holder has. It returns the number of images that were opened.
func anchorLife(t *testing.T, seed uint64) (cuts int) {
	l := &anchorRun{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 21)), dev: device.NewMem(80 << 20)}
	mustFormat(t, l.dev)
	for round := range 6 {
		v, err := anchored(t, l.dev, l.h.held, false)
		if err != nil {
			t.Fatalf("seed %d, round %d: %v", seed, round, err)
		}
		l.end(v, l.work(v, round))
		l.crash(round)
	}
	l.refusePast()
	return l.cuts
}

// work changes the volume and moves anchors, until the power goes or it has done enough.
func (l *anchorRun) work(v *Volume, round int) (opErr error) {
	rng, h := l.rng, &l.h
	r := &crashRun{v: v, rng: rng, states: []modelState{{files: map[string][]byte{}}}, inos: map[string]vfs.Ino{}}
	// Each life has its own directory, so that the model is empty at its start.
	base, err := v.Mkdir(crashReq, vfs.RootIno, fmt.Sprint("life", round), 0o755)
	ok(l.t, err)
	r.base = base.Ino
	if rng.IntN(3) > 0 {
		l.dev.CutAfter(1 + rng.IntN(120))
	}
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
					l.t.Fatalf("seed %d: %v", l.seed, err)
				}
			}
		case 3:
			l.past = append(l.past, l.dev.Clone())
		default:
			opErr = r.step()
		}
	}
	return opErr
}

// end closes the volume, or cuts the power if it has not gone yet.
func (l *anchorRun) end(v *Volume, opErr error) {
	if opErr != nil && !errors.Is(opErr, device.ErrCrashed) && !errors.Is(opErr, vfs.ErrReadOnly) {
		l.t.Fatalf("seed %d: %v", l.seed, opErr)
	}
	if opErr == nil && l.rng.IntN(2) == 0 { // clean
		if v.Close() == nil {
			a, used := v.LastAnchor()
			if used {
				l.h.under = append(l.h.under, a)
			}
		}
		return
	}
	l.dev.Cut()
	v.fail(device.ErrCrashed)
	_ = v.Close() // it has failed: nothing is written
}

// crash opens images that the end may have left, with anchors that may have arrived by now. The
// last of them is the device from then on.
func (l *anchorRun) crash(round int) {
	rng, h := l.rng, &l.h
	var next *device.Mem
	for i := range 8 {
		img := l.dev.Crash([]device.CrashMode{device.CrashLoseAll, device.CrashKeepAll, device.CrashMix}[min(i, 2)], rng)
		// Whatever was given out may have arrived by now.
		a := h.held
		if n := len(h.under); n > 0 && rng.IntN(2) == 0 {
			a = &h.under[rng.IntN(n)]
		}
		if rng.IntN(2) == 0 { // cut once more while it is opened
			img.CutAfter(1 + rng.IntN(24))
			if v, err := anchored(l.t, img, a, false); err == nil {
				v.fail(device.ErrCrashed)
				_ = v.Close()
			} else if !errors.Is(err, device.ErrCrashed) {
				l.t.Fatalf("seed %d, round %d, image %d: %v", l.seed, round, i, err)
			}
			img.Cut()
			img = img.Crash(device.CrashMix, rng)
		}
		l.cuts++
		v, err := anchored(l.t, img.Clone(), a, rng.IntN(2) == 0)
		if err != nil {
			l.t.Fatalf("seed %d, round %d, image %d, false alarm: %v", l.seed, round, i, err)
		}
		_ = v.Close()
		next = img
	}
	l.dev = next
}

// refusePast opens an image that is older than the anchor which the holder has.
func (l *anchorRun) refusePast() {
	held := l.h.held
	if held == nil {
		return
	}
	for _, img := range l.past {
		if at := newestOf(l.t, img).Generation; at < held.Generation {
			if _, err := anchored(l.t, img, held, true); !errors.Is(err, ErrRolledBack) {
				l.t.Fatalf("seed %d: an image of generation %d opens with the anchor of %d: %v", l.seed, at, held.Generation, err)
			}
			fork(l.t, l.seed, img, held)
			break
		}
	}
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
	t.Parallel()
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
