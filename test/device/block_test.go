package device

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/device/devicetest"
)

// losetup runs losetup(8), which waits only for the kernel.
func losetup(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "losetup", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// loop creates a block device from an image file of zeros. With direct, I/O bypasses the page
// cache, as on a disk.
func loop(t *testing.T, sizeBytes int64, direct string) (dev, path string) {
	path = filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(sizeBytes), f.Close()); err != nil {
		t.Fatal(err)
	}
	dev = losetup(t, "--find", "--show", "--direct-io="+direct, path)
	t.Cleanup(func() { losetup(t, "--detach", dev) })
	return dev, path
}

func open(t *testing.T, path string) *device.File {
	d, err := device.Open(path, device.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestBlock(t *testing.T) {
	for _, direct := range []string{"on", "off"} {
		t.Run("direct-io="+direct, func(t *testing.T) {
			var dev string // of the latest image
			devicetest.Run(t, devicetest.Kind{
				New: func(t *testing.T, sizeBytes int64) device.Device {
					dev, _ = loop(t, sizeBytes, direct)
					d := open(t, dev)
					if !d.IsBlock() {
						t.Fatal("it does not say that it is a block device")
					}
					return d
				},
				Reopen: func(t *testing.T, d device.Device) device.Device {
					if err := d.Close(); err != nil {
						t.Fatal(err)
					}
					return open(t, dev)
				},
			})
		})
	}
}

// TestBlockInUse opens a block device as several programs would.
func TestBlockInUse(t *testing.T) {
	dev, _ := loop(t, 1<<20, "off")
	open(t, dev)
	for _, o := range []device.OpenOptions{{}, {ReadOnly: true}} {
		if _, err := device.Open(dev, o); !errors.Is(err, device.ErrInUse) {
			t.Errorf("opened again with %+v: %v; want ErrInUse", o, err)
		}
	}
	s, err := device.Open(dev, device.OpenOptions{ReadOnly: true, Shared: true})
	if err != nil {
		t.Fatalf("opened again, shared: %v", err)
	}
	_ = s.Close()
}

// TestBlockGrows grows a block device while it is open.
func TestBlockGrows(t *testing.T) {
	dev, path := loop(t, 1<<20, "off")
	d := open(t, dev)
	b := device.AlignedBytes(device.SectorBytes)
	if _, err := d.WriteAt(b, 1<<20); !errors.Is(err, device.ErrRange) {
		t.Fatalf("a write behind the end: %v; want ErrRange", err)
	}
	if err := os.Truncate(path, 2<<20); err != nil {
		t.Fatal(err)
	}
	losetup(t, "--set-capacity", dev)
	if _, err := d.WriteAt(b, 1<<20); err != nil {
		t.Fatalf("a write to what has been added: %v", err)
	}
	if n, err := d.Size(); n != 2<<20 || err != nil {
		t.Fatalf("Size: %d, %v", n, err)
	}
}
