package csi_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	spec "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
)

// sizeOf opens a published device.
func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		t.Fatal(st.Mode, err)
	}
	n, err := f.Seek(0, 2)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (v *vol) nodeExpand(c *spec.VolumeCapability, path string, required int64) (int64, error) {
	resp, err := v.r.node.NodeExpandVolume(v.r.ctx(), &spec.NodeExpandVolumeRequest{VolumeId: v.id, VolumePath: path, VolumeCapability: c, CapacityRange: &spec.CapacityRange{RequiredBytes: required}})
	return resp.GetCapacityBytes(), err
}

// TestRawLife: a raw block volume goes through all calls, each of them twice.
func TestRawLife(t *testing.T) {
	r := newRig(t)
	v := r.createWith("raw", blockCapability(multiWriter))
	if again := r.createWith("raw", blockCapability(multiWriter)); again.id != v.id {
		t.Fatal("created twice")
	}
	g := must[*spec.ControllerGetVolumeResponse](t)(r.ctrl.ControllerGetVolume(r.ctx(), &spec.ControllerGetVolumeRequest{VolumeId: v.id}))
	if g.GetVolume().GetCapacityBytes() != size || v.context["accessType"] != "block" {
		t.Fatal(g)
	}
	v.up()
	wantCode(t, v.stage(), codes.OK)
	wantCode(t, v.publishTo("a"), codes.OK)
	wantCode(t, v.publishTo("a"), codes.OK)
	if n := sizeOf(t, v.target("a")); n != size {
		t.Fatal("the device has ", n)
	}
	text := bytes.Repeat([]byte("raw data"), 512)
	if err := os.WriteFile(v.target("a"), text, 0); err != nil {
		t.Fatal(err)
	}
	ro := v.publishRequest("ro")
	ro.Readonly = true
	for range 2 {
		_, err := r.node.NodePublishVolume(r.ctx(), ro)
		wantCode(t, err, codes.OK)
	}
	wantCode(t, v.publishTo("ro"), codes.AlreadyExists) // the same path, not read-only
	f, err := os.OpenFile(v.target("ro"), os.O_RDWR, 0)
	if err == nil {
		_, err = f.Write(text)
		f.Close()
	}
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EACCES) {
		t.Fatal("written through a read-only publication:", err)
	}
	if b, err := os.ReadFile(v.target("ro")); err != nil || !bytes.HasPrefix(b, text) || len(b) != size {
		t.Fatal(len(b), err)
	}
	for _, path := range []string{v.target("a"), v.target("ro"), v.staging()} {
		st := must[*spec.NodeGetVolumeStatsResponse](t)(r.node.NodeGetVolumeStats(r.ctx(), &spec.NodeGetVolumeStatsRequest{VolumeId: v.id, VolumePath: path}))
		if u := st.GetUsage(); len(u) != 1 || u[0].GetTotal() != size || u[0].GetUnit() != spec.VolumeUsage_BYTES || u[0].GetUsed() != 0 {
			t.Fatal(st)
		}
	}
	wantCode(t, v.unstage(), codes.FailedPrecondition) // still published

	ex := must[*spec.ControllerExpandVolumeResponse](t)(r.ctrl.ControllerExpandVolume(r.ctx(), &spec.ControllerExpandVolumeRequest{
		VolumeId: v.id, CapacityRange: &spec.CapacityRange{RequiredBytes: 2 * size, LimitBytes: 2 * size}, VolumeCapability: v.cap}))
	if ex.GetCapacityBytes() != 2*size || !ex.GetNodeExpansionRequired() {
		t.Fatal(ex)
	}
	for range 2 {
		if n, err := v.nodeExpand(v.cap, v.target("a"), 2*size); err != nil || n != 2*size {
			t.Fatal(n, err)
		}
	}
	for _, target := range []string{"a", "ro"} {
		if n := sizeOf(t, v.target(target)); n != 2*size {
			t.Fatal("grown to ", n)
		}
	}
	v.drop("a", "a", "ro")
	for _, p := range []string{v.target("a"), v.target("ro")} {
		if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s: %v", p, err)
		}
	}
	v.drop("a", "ro") // all of this again
}

// badRawRequests are requests for volumes that cannot be raw block devices.
func badRawRequests(t *testing.T, r *rig, asFiles, asRaw *spec.VolumeCapability) {
	t.Helper()
	for _, c := range []*spec.CreateVolumeRequest{
		{Name: "both", VolumeCapabilities: []*spec.VolumeCapability{asFiles, asRaw}},
		{Name: "context", VolumeCapabilities: []*spec.VolumeCapability{asRaw}, Parameters: map[string]string{"accessType": "block"}},
		{Name: "multi", VolumeCapabilities: []*spec.VolumeCapability{blockCapability(spec.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)}},
	} {
		_, err := r.ctrl.CreateVolume(r.ctx(), c)
		wantCode(t, err, codes.InvalidArgument)
	}
	for _, c := range []struct {
		required, limit int64
		code            codes.Code
	}{{1 << 62, 0, codes.OutOfRange}, {0, 4095, codes.OutOfRange}, {4097, 4100, codes.OutOfRange}, {8192, 4096, codes.InvalidArgument}, {8 << 40, 0, codes.ResourceExhausted}} {
		_, err := r.ctrl.CreateVolume(r.ctx(), &spec.CreateVolumeRequest{Name: "size", VolumeCapabilities: []*spec.VolumeCapability{asRaw}, CapacityRange: &spec.CapacityRange{RequiredBytes: c.required, LimitBytes: c.limit}})
		wantCode(t, err, c.code)
	}
	_, err := r.ctrl.CreateVolume(r.ctx(), &spec.CreateVolumeRequest{Name: "raw", VolumeCapabilities: []*spec.VolumeCapability{asFiles}, CapacityRange: &spec.CapacityRange{RequiredBytes: size}, Parameters: map[string]string{"recordSize": "64KiB"}})
	wantCode(t, err, codes.AlreadyExists)
}

// capacity returns how much capacity the backend reports.
func (r *rig) capacity(c *spec.VolumeCapability) int64 {
	return must[*spec.GetCapacityResponse](r.t)(r.ctrl.GetCapacity(r.ctx(), &spec.GetCapacityRequest{VolumeCapabilities: []*spec.VolumeCapability{c}})).GetAvailableCapacity()
}

// TestRawMixing: a volume is a device or a file system; a request for the other type changes
// nothing.
func TestRawMixing(t *testing.T) {
	r := newRig(t)
	files, raw := r.create("files", multiWriter).up(), r.createWith("raw", blockCapability(multiWriter)).up()
	wantCode(t, files.publishTo("files"), codes.OK)
	wantCode(t, raw.publishTo("raw"), codes.OK)
	if err := os.WriteFile(raw.target("plain"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", raw.target("link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(raw.target("dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	before := r.world()
	for _, v := range []*vol{files, raw} {
		right, rightContext := v.cap, v.context
		wrong, wrongContext := raw.cap, raw.context
		if v == raw {
			wrong, wrongContext = files.cap, files.context
		}
		v.cap = wrong
		wantCode(t, v.attach(false), codes.InvalidArgument)
		wantCode(t, v.stage(), codes.FailedPrecondition)
		wantCode(t, v.publishTo("new"), codes.FailedPrecondition)
		_, err := v.nodeExpand(wrong, v.staging(), 0)
		wantCode(t, err, codes.InvalidArgument)
		_, err = r.ctrl.ControllerExpandVolume(r.ctx(), &spec.ControllerExpandVolumeRequest{VolumeId: v.id, VolumeCapability: wrong, CapacityRange: &spec.CapacityRange{RequiredBytes: 2 * size}})
		wantCode(t, err, codes.InvalidArgument)
		val := must[*spec.ValidateVolumeCapabilitiesResponse](t)(r.ctrl.ValidateVolumeCapabilities(r.ctx(), &spec.ValidateVolumeCapabilitiesRequest{VolumeId: v.id, VolumeContext: rightContext, VolumeCapabilities: []*spec.VolumeCapability{wrong}}))
		if val.GetConfirmed() != nil {
			t.Fatal(val)
		}
		v.context = wrongContext // a CO that mixed up everything
		wantCode(t, v.stage(), codes.AlreadyExists)
		wantCode(t, v.publishTo("new"), codes.AlreadyExists)
		v.cap, v.context = right, rightContext
		val = must[*spec.ValidateVolumeCapabilitiesResponse](t)(r.ctrl.ValidateVolumeCapabilities(r.ctx(), &spec.ValidateVolumeCapabilitiesRequest{VolumeId: v.id, VolumeContext: rightContext,
			Parameters: map[string]string{"recordSize": "64KiB"}, VolumeCapabilities: []*spec.VolumeCapability{right}}))
		if val.GetConfirmed() == nil {
			t.Fatal(val)
		}
	}
	for target, code := range map[string]codes.Code{"plain": codes.InvalidArgument, "link": codes.InvalidArgument, "dir": codes.InvalidArgument, "raw/x": codes.InvalidArgument} {
		wantCode(t, raw.publishTo(target), code)
	}
	badRawRequests(t, r, files.cap, raw.cap)
	if after := r.world(); after != before {
		t.Fatalf("before\n%s\nafter\n%s", before, after)
	}
	if a, b := r.capacity(files.cap), r.capacity(raw.cap); b != mounter.RawBytes(a) || b == 0 {
		t.Fatal(a, b)
	}
	files.drop("files")
	raw.drop("raw")
}

// TestRawServerDies: programs get errors and do not hang; the republish brings a new device to the
// target.
func TestRawServerDies(t *testing.T) {
	r := newRig(t)
	v := r.createWith("raw", blockCapability(multiWriter)).up()
	wantCode(t, v.publishTo("a"), codes.OK)
	text := bytes.Repeat([]byte("kept"), 1024)
	write := func(off int64) error {
		f, err := os.OpenFile(v.target("a"), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteAt(text, off); err != nil {
			return err
		}
		return f.Sync()
	}
	if err := write(0); err != nil {
		t.Fatal(err)
	}
	i := must[mounter.Info](t)(r.mounter.Health(r.ctx(), v.id))
	if err := unix.Kill(i.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var err error
	for err == nil {
		err = write(1 << 20)
	}
	if !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	wantCode(t, v.publishTo("a"), codes.OK)
	if err := write(1 << 20); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(v.target("a")); err != nil || !bytes.HasPrefix(b, text) {
		t.Fatal(err)
	}
	if n := len(mountertest.Below(v.target("a"))); n != 1 {
		t.Fatal(n, "mounts")
	}
	wantCode(t, v.stage(), codes.OK)
	v.drop("a")
}
