package volume

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// TestRequireFeature cuts the power at each write of a header that gets a
// feature bit: the volume opens, with the bit or without, and is whole.
func TestRequireFeature(t *testing.T) {
	const bit = layout.FeatureShares
	rng := rand.New(rand.NewPCG(1, 1))
	for cut := 0; ; cut++ {
		dev := device.NewMem(64 << 20)
		mustFormat(t, dev)
		v := mustOpen(t, dev, Options{CommitInterval: -1})
		if cut > 0 {
			dev.CutAfter(cut)
		}
		err := v.keys.requireFeature(bit)
		if cut > 0 && err == nil { // all writes of it were before the cut
			dev.Cut()
			v.fail(device.ErrCrashed)
			_ = v.Close()
			break
		}
		if cut > 0 {
			if !errors.Is(err, device.ErrCrashed) || v.Failed() == nil {
				t.Fatalf("cut %d: %v", cut, err)
			}
			if err := v.keys.requireFeature(bit); !errors.Is(err, vfs.ErrReadOnly) {
				t.Fatalf("a failed volume: %v", err)
			}
			_ = v.Close()
		} else {
			ok(t, err)
			if h, err := ReadHeader(dev); err != nil || h.Incompat != bit || h.Sequence != 2 || len(h.Damaged) > 0 {
				t.Fatalf("header: %+v %v", h, err)
			}
			ok(t, v.keys.requireFeature(bit)) // nothing to do
			ok(t, v.Close())
			if h, err := ReadHeader(dev); err != nil || h.Sequence != 2 {
				t.Fatalf("header: %+v %v", h, err)
			}
		}
		for _, mode := range []device.CrashMode{device.CrashLoseAll, device.CrashKeepAll, device.CrashMix, device.CrashMix} {
			img := dev.Crash(mode, rng)
			v := mustOpen(t, img, Options{CommitInterval: -1})
			before := v.keys.features.Load()
			ok(t, v.keys.requireFeature(bit))
			ok(t, v.Close())
			checkClean(t, img)
			h, err := ReadHeader(img)
			if err != nil || h.Incompat != bit {
				t.Fatalf("cut %d, %v: header %+v, before %#x: %v", cut, mode, h, before, err)
			}
		}
	}
}
