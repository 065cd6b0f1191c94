package doublecrypt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// TestOddFile fills volumes of 512-byte blocks in image files that end within a sector.
func TestOddFile(t *testing.T) {
	for _, size := range []int64{1 << 20, 1<<20 + 512, 1<<20 + 3*512} {
		path := filepath.Join(t.TempDir(), "image")
		must(t, os.WriteFile(path, nil, 0o600))
		must(t, os.Truncate(path, size))
		open := func() (*device.File, *crypto.DoublecryptKey) {
			dev, err := device.Open(path, device.OpenOptions{})
			must(t, err)
			key, err := crypto.NewDoublecryptKey(make([]byte, 32))
			must(t, err)
			return dev, key
		}
		dev, key := open()
		must(t, Format(dev, key, 512, uint64(size)/512, Options{}))
		v, err := Open(dev, key, Options{})
		must(t, err)
		files := 0
		for ; ; files++ {
			a, err := v.Mknod(&vfs.Req{}, vfs.RootIno, fmt.Sprint("f", files), 0o100644, 0)
			if err == nil {
				_, err = v.Write(&vfs.Req{}, a.Ino, 0, make([]byte, 4096), false)
			}
			if errors.Is(err, vfs.ErrNoSpace) {
				break
			}
			must(t, err)
		}
		must(t, v.Sync(vfs.RootIno))
		must(t, v.Close())
		must(t, dev.Close())

		dev, key = open()
		v, err = Open(dev, key, Options{})
		must(t, err)
		if _, err := v.Lookup(vfs.RootIno, fmt.Sprint("f", files-1)); err != nil || files < 50 {
			t.Errorf("%d bytes: the last of %d files: %v", size, files, err)
		}
		must(t, v.Close())
		must(t, dev.Close())
	}
}
