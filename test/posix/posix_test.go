// Package posix runs the POSIX suites on a real mount of a real volume.
package posix

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/fusefs/fusefstest"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// newVolume creates a volume of format v2 in an image file. The test fails if fsck finds damage at
// the end.
func newVolume(t *testing.T) vfs.FS { return newSizedVolume(t, 2<<30) }

func newSizedVolume(t *testing.T, sizeBytes int64) vfs.FS {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err == nil {
		err = f.Truncate(sizeBytes)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	key := func() interface {
		crypto.Credential
		crypto.Recipient
	} {
		b := make([]byte, 32)
		b[0] = 1
		k, err := crypto.NewKey(b)
		if err != nil {
			t.Fatal(err)
		}
		return crypto.SecretCredential(k)
	}
	dev, err := device.Open(path, device.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := volume.Format(dev, volume.FormatOptions{Recipient: key(), RootMode: 0o777}); err != nil {
		t.Fatal(err)
	}
	v, err := volume.Open(dev, volume.Options{Credential: key()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		rep, err := check.Run(dev, check.Options{Credential: key(), Data: true})
		if err != nil || !rep.Clean {
			t.Errorf("fsck: %v, %+v", err, rep)
		}
		if err := dev.Close(); err != nil {
			t.Errorf("close the device: %v", err)
		}
	})
	return v
}

func TestEnginePOSIX(t *testing.T) { fusefstest.RunPOSIX(t, newVolume) }
