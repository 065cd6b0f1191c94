package device_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/device/devicetest"
)

const sector = device.SectorBytes

// TestFile tests image files. If the file system of temporary files does not support direct I/O, it
// tests File without direct I/O. test/device always tests both.
func TestFile(t *testing.T) {
	var path string // of the latest image
	open := func(t *testing.T) device.Device {
		d, err := device.Open(path, device.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d
	}
	devicetest.Run(t, devicetest.Kind{
		KnowsData: true,
		New: func(t *testing.T, sizeBytes int64) device.Device {
			path = image(t, sizeBytes)
			return open(t)
		},
		Reopen: func(t *testing.T, d device.Device) device.Device {
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			return open(t)
		},
	})
}

func TestMem(t *testing.T) {
	devicetest.Run(t, devicetest.Kind{
		KnowsData: true,
		New:       func(_ *testing.T, sizeBytes int64) device.Device { return device.NewMem(sizeBytes) },
		Reopen:    func(_ *testing.T, d device.Device) device.Device { return d },
	})
}

func TestFault(t *testing.T) {
	devicetest.Run(t, devicetest.Kind{
		KnowsData: true,
		New: func(_ *testing.T, sizeBytes int64) device.Device {
			return device.NewFault(device.NewMem(sizeBytes), func(int, device.Op, int64, int) error { return nil })
		},
	})
}

// image creates an image file of zeros.
func image(t *testing.T, sizeBytes int64) string {
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, sizeBytes); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestOpen opens an image several times, like several programs.
func TestOpen(t *testing.T) {
	path := image(t, 8*sector)
	d, err := device.Open(path, device.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []device.OpenOptions{{}, {ReadOnly: true}} {
		if _, err := device.Open(path, o); !errors.Is(err, device.ErrInUse) {
			t.Errorf("opened again with %+v: %v; want ErrInUse", o, err)
		}
	}
	s, err := device.Open(path, device.OpenOptions{ReadOnly: true, Shared: true})
	if err != nil {
		t.Fatalf("opened again, shared: %v", err)
	}
	_ = s.Close()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := device.Open(path, device.OpenOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if _, err := r.WriteAt(make([]byte, sector), 0); err == nil {
		t.Error("a device that is open for reading was written")
	}
	if r.IsBlock() {
		t.Error("an image file says that it is a block device")
	}
	if _, err := device.Open(filepath.Join(t.TempDir(), "nothing"), device.OpenOptions{}); !errors.Is(err, device.ErrNotFound) {
		t.Errorf("a file that does not exist: %v; want ErrNotFound", err)
	}
	for _, path := range []string{t.TempDir(), os.DevNull} {
		if d, err := device.Open(path, device.OpenOptions{}); err == nil {
			_ = d.Close()
			t.Errorf("%s was opened as a device", path)
		}
	}
}

// TestFileGrows enlarges an open image.
func TestFileGrows(t *testing.T) {
	path := image(t, 8*sector)
	d, err := device.Open(path, device.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	b := make([]byte, sector)
	if _, err := d.WriteAt(b, 8*sector); err == nil {
		t.Fatal("a write behind the end was not refused")
	}
	if err := os.Truncate(path, 16*sector); err != nil {
		t.Fatal(err)
	}
	if n, err := d.Size(); n != 16*sector || err != nil {
		t.Fatalf("Size: %d, %v", n, err)
	}
	if _, err := d.WriteAt(b, 15*sector); err != nil {
		t.Fatal(err)
	}
}

// TestFileEndsWithinSector writes the last sector of an image that has only a part of it.
func TestFileEndsWithinSector(t *testing.T) {
	path := image(t, 8*sector+512)
	d, err := device.Open(path, device.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	b := bytes.Repeat([]byte{7}, sector)
	if _, err := d.WriteAt(b, 9*sector); !errors.Is(err, device.ErrRange) {
		t.Errorf("a write behind the last sector: %v; want ErrRange", err)
	}
	if _, err := d.WriteAt(b, 8*sector); err != nil {
		t.Fatalf("a write of the last sector: %v", err)
	}
	got := make([]byte, sector)
	if _, err := d.ReadAt(got, 8*sector); err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got, b) {
		t.Errorf("the last sector is not what was written: %v", err)
	}
	if n, err := d.Size(); n != 9*sector || err != nil {
		t.Errorf("Size: %d, %v; want whole sectors", n, err)
	}
}
