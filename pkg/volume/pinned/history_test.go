package pinned_test

import (
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/volumetest"
)

type history = volumetest.History

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newHistory(t testing.TB, seed uint64, sizeBytes int64) *history {
	return volumetest.NewHistory(t, seed, sizeBytes)
}
func newKey(t testing.TB) volumetest.Key                   { return volumetest.NewKey(t) }
func format(t testing.TB, sizeBytes int64) *device.Mem     { return volumetest.Format(t, sizeBytes) }
func mount(t testing.TB, dev device.Device) *volume.Volume { return volumetest.Mount(t, dev) }

func pick[T any](rng *rand.Rand, list []T) T { return list[rng.IntN(len(list))] }

// newBlank is a device without a volume.
func newBlank(t testing.TB) device.Device {
	t.Helper()
	return device.NewMem(96 << 20)
}
