package doublecrypt

import (
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/vfstest"
)

// TestConformance runs the cases of the suite that need only features of the format. vfs_test.go
// tests the supported parts of the other cases.
func TestConformance(t *testing.T) {
	cases := []string{"empty", "inoNeverReused", "unlink", "rmdir", "renameReplace", "renameDirectory", "readDirPlus", "readDirWhileChanging",
		"readWrite", "writeRandom", "sizes", "copyRange", "wrongType", "stale", "statfs", "concurrent"}
	vfstest.RunOnly(t, func(t *testing.T) (vfs.FS, func() vfs.FS) {
		dev := device.NewMem(128 << 20)
		key := testKey(t)
		if err := Format(dev, key, 16384, 0, Options{}); err != nil {
			t.Fatal(err)
		}
		v := mustOpen(t, dev, key, Options{})
		t.Cleanup(func() {
			if err := v.Close(); err != nil {
				t.Error(err)
			}
			mustClean(t, dev, key)
		})
		return v, func() vfs.FS {
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
			v = mustOpen(t, dev, key, Options{})
			return v
		}
	}, cases...)
}
