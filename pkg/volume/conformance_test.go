package volume

import (
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/vfstest"
)

func TestConformance(t *testing.T) {
	vfstest.Run(t, func(t *testing.T) (vfs.FS, func() vfs.FS) {
		dev := device.NewMem(256 << 20)
		mustFormat(t, dev)
		v := mustOpen(t, dev, Options{Memory: minMemory})
		t.Cleanup(func() {
			if err := v.Close(); err != nil {
				t.Error(err)
			}
		})
		return v, func() vfs.FS {
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
			v = mustOpen(t, dev, Options{Memory: minMemory})
			return v
		}
	})
}

func TestCompare(t *testing.T) {
	t.Parallel()
	for seed := range uint64(fewer(6)) {
		dev := device.NewMem(256 << 20)
		mustFormat(t, dev)
		v := mustOpen(t, dev, Options{Memory: minMemory})
		vfstest.Compare(t, seed, 4000, v, vfstest.NewMemFS())
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
