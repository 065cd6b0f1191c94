package doublecrypt

import (
	"bytes"
	"os"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

func testKey(t testing.TB) *crypto.DoublecryptKey {
	t.Helper()
	return newKey(t, bytes.Repeat([]byte{7}, 32))
}

func mustOpen(t testing.TB, dev device.Device, key *crypto.DoublecryptKey, o Options) *Volume {
	t.Helper()
	v, err := Open(dev, key, o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func mustCreate(t testing.TB, path string, size int64) *device.File {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	dev, err := device.Open(path, device.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return dev
}
