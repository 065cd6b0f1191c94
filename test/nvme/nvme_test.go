//go:build nvme

package nvme

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/test/nvme/vm"
)

// noise returns data that compresses badly and is the same each time.
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

// TestLife attaches a device that is found by its serial number, formats, mounts and fills it,
// removes it, and brings it back larger.
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

// TestSwap brings two devices back in the other order: each volume is found by its serial number,
// whatever name the kernel gives its device.
func TestSwap(t *testing.T) {
	a, b := newVolume(t, "vol-0aaaaaaaaaaaaaaa1"), newVolume(t, "vol-0bbbbbbbbbbbbbbb1")
	both := []*volume{a, b}
	for _, v := range both {
		v.plug()
		v.mount()
		v.write("file", noise(v.id, mib))
	}
	first := [2]string{a.device(), b.device()}
	for _, v := range both {
		v.unmount()
		v.unplug()
	}
	a.gone()
	b.gone()
	for _, v := range []*volume{b, a} {
		v.plug()
		v.device()
	}
	if now := [2]string{b.device(), a.device()}; now != first {
		t.Fatalf("the names did not swap, so that this proves nothing: %v, then %v", first, now)
	}
	for _, v := range both {
		v.mount()
		v.expect("file", noise(v.id, mib))
	}
}

// TestPulledOut removes a device while it is written to. The writer gets an error, all synced data
// is there when the device comes back, and until then volume and driver report the problem.
func TestPulledOut(t *testing.T) {
	v := newVolume(t, "vol-0cccccccccccccccc")
	v.plug()
	v.mount()
	v.write("file", noise("early", mib))
	call[vm.None](t, "StartWriter", v.path("records"))
	waitFor(t, "records", func() bool { return v.written().Records >= 20 })
	v.unplug()
	v.gone()
	waitFor(t, "an error", func() bool { return v.written().Err != "" })
	w := v.written()
	if !strings.Contains(w.Err, "input/output error") && !strings.Contains(w.Err, "read-only file system") {
		t.Fatalf("the writer got %q", w.Err)
	}
	t.Logf("%d records were synced; then %s", w.Records, w.Err)

	if h := v.health(); !strings.Contains(h, "DeviceGone") || !strings.Contains(h, "INACCESSIBLE") {
		t.Fatal("health: ", h)
	}
	if err := machine.Call(t.Context(), "Write", vm.File{Path: v.path("late"), Data: []byte("late"), Sync: true}, &vm.None{}); err == nil {
		t.Fatal("a file was synced to a device that is not there")
	}
	if err := stillAlive(t.Context()); err != nil {
		t.Fatal(err)
	}
	v.all(v.unpublish)
	if err := v.unstage(t.Context()); status.Code(err) != codes.Internal { // only once: unsynced writes may be lost
		t.Fatal(err)
	}
	v.all(v.unstage)

	v.plug()
	v.mount()
	v.expect("file", noise("early", mib))
	v.expectRecords(w.Records)
	if h := v.health(); h != "" {
		t.Fatal("health: ", h)
	}
	v.write("after", noise("after", mib))
}

func (v *volume) written() vm.Acknowledged {
	v.t.Helper()
	return call[vm.Acknowledged](v.t, "Writer", v.path("records"))
}

// expectRecords checks the first n records of a writer.
func (v *volume) expectRecords(n int64) {
	v.t.Helper()
	got := call[[]byte](v.t, "ReadFile", v.path("records"))
	for i := range n {
		if at := i * vm.RecordBytes; int64(len(got)) < at+vm.RecordBytes || !bytes.Equal(got[at:at+vm.RecordBytes], vm.Record(i)) {
			v.t.Fatalf("record %d of %d that were synced is lost", i, n)
		}
	}
}

// health returns the problems that the node service reports.
func (v *volume) health() string {
	v.t.Helper()
	r, err := node.NodeGetVolumeHealth(v.t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: v.id, VolumePublishPath: v.target(), StagingTargetPath: v.staging()})
	if err != nil {
		v.t.Fatal(err)
	}
	var all strings.Builder
	for _, e := range r.GetVolumeHealth().GetHealthStatuses() {
		fmt.Fprintln(&all, e)
	}
	return all.String()
}

// refused stages a volume. That must fail in time with a code and a text, and not change the
// device.
func (v *volume) refused(code codes.Code, words string) {
	v.t.Helper()
	before := sha256.Sum256(readAll(v.t, v.file))
	ctx, cancel := context.WithTimeout(v.t.Context(), 12*time.Second) // without a deadline, the driver waits 30 s for a device
	defer cancel()
	if err := v.stage(ctx); status.Code(err) != code || !strings.Contains(err.Error(), words) {
		v.t.Fatalf("%s: %v; want %v with %q", v.id, err, code, words)
	}
	if after := sha256.Sum256(readAll(v.t, v.file)); after != before {
		v.t.Fatalf("%s was refused, but written to", v.id)
	}
}

// TestOtherSerial: a device that may not belong to the volume is not touched, and the error says
// what is wrong.
func TestOtherSerial(t *testing.T) {
	const byID = "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_"
	v, other := newVolume(t, "vol-0dddddddddddddddd"), newVolume(t, "vol-0ddddddddddddddd2")
	v.plugAs("vol0ddddddddddddddd1")
	waitFor(t, "the device", func() bool { return len(devices(t, "vol0ddddddddddddddd1")) == 1 })
	v.refused(codes.FailedPrecondition, "no device has the volume's serial")
	v.unplug()

	v.plug()
	other.plug()
	name, otherName := v.device(), other.device()
	for _, suffix := range []string{"", "-ns-1", "_1"} {
		link := byID + serialOf(v.id) + suffix
		call[vm.None](t, "Symlink", vm.Link{Path: link, To: "../../" + otherName})
		v.refused(codes.DataLoss, "leads to another device")
		call[vm.None](t, "Remove", link)
	}
	// Correct links, and no links at all: the kernel's information is enough.
	call[vm.None](t, "Symlink", vm.Link{Path: byID + serialOf(v.id), To: "../../" + name})
	v.mount()
	v.unmount()
	call[vm.None](t, "Remove", byID+serialOf(v.id))
	v.mount()
}

// TestForeign: a device that holds anything else is never formatted.
func TestForeign(t *testing.T) {
	gpt := make([]byte, 1024)
	copy(gpt[510:], "\x55\xaaEFI PART")
	for words, fill := range map[string]func(v *volume){
		"an ext2/3/4 file system": func(v *volume) {
			if out, err := exec.Command("mkfs.ext4", "-q", "-F", v.file).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		},
		"a GPT partition table": func(v *volume) { writeAt(t, v.file, gpt, 0) },
		"unknown data":          func(v *volume) { writeAt(t, v.file, []byte{1}, 1<<20+77) },
	} {
		v := newVolume(t, "vol-0eeeeeeeeeeeeeeee")
		fill(v)
		v.plug()
		v.refused(codes.FailedPrecondition, words)
		v.unplug()
		v.gone()
	}
}

// TestCopy: a device that was copied outside of CSI opens with the key of its source, but is not
// accepted as a volume of its own.
func TestCopy(t *testing.T) {
	v, w := newVolume(t, "vol-0ffffffffffffffff"), newVolume(t, "vol-0fffffffffffffff1")
	v.plug()
	v.mount()
	v.write("file", noise("copy", mib))
	v.unmount()
	writeAt(t, w.file, readAll(t, v.file), 0)
	v.mount()
	w.plug()
	w.refused(codes.FailedPrecondition, "copy of another")
	w.context = map[string]string{"keyVolume": v.id}
	w.mount()
	w.expect("file", noise("copy", mib))
	v.expect("file", noise("copy", mib))
}

func writeAt(t *testing.T, file string, b []byte, off int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(b, off)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}
