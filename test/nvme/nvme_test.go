//go:build nvme

package nvme

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/test/nvme/vm"
)

// noise is content that compresses badly and repeats each time.
func noise(seed string, n int) []byte {
	b := make([]byte, 0, n+sha256.Size)
	for sum := sha256.Sum256([]byte(seed)); len(b) < n; sum = sha256.Sum256(sum[:]) {
		b = append(b, sum[:]...)
	}
	return b[:n]
}

func (v *volume) write(name string, data []byte) {
	v.t.Helper()
	call[vm.None](v.t, "Write", vm.File{Path: v.path(name), Data: data, Sync: true})
}

func (v *volume) expect(name string, data []byte) {
	v.t.Helper()
	want := sha256.Sum256(data)
	if got := call[[]byte](v.t, "Hash", vm.Range{Path: v.path(name)}); !bytes.Equal(got, want[:]) {
		v.t.Fatalf("%s of %s is not what was written", name, v.id)
	}
}

// TestLife attaches a device, has it found by its serial, formatted, mounted and filled; takes it away, and brings it back larger.
func TestLife(t *testing.T) {
	v := newVolume(t, "vol-0123456789abcdef0")
	text := noise("life", 3*mib+17)
	v.plug()
	v.mount()
	v.write("file", text)
	v.expect("file", text)
	before := call[vm.Size](t, "Statfs", v.target())
	v.unmount()
	v.unplug()
	v.gone()
	if raw := readAll(t, v.file); bytes.Contains(raw, text[:64]) || !bytes.Contains(raw[:4096], []byte("SEALVOL")) {
		t.Fatal("the device holds no volume, or plaintext")
	}

	v.resize(2 * v.size)
	v.plug()
	v.mount()
	v.expect("file", text)
	x, err := node.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{VolumeId: v.id, VolumePath: v.target(), CapacityRange: &csi.CapacityRange{RequiredBytes: v.size}})
	if err != nil || x.GetCapacityBytes() != v.size {
		t.Fatal(x, err)
	}
	if after := call[vm.Size](t, "Statfs", v.target()); after.Total < before.Total*19/10 {
		t.Fatal("the file system did not grow with its device", before, after)
	}
	more := noise("more", mib)
	v.write("more", more)
	v.unmount()
	v.unplug()
	v.plug()
	v.mount()
	v.expect("file", text)
	v.expect("more", more)
}
