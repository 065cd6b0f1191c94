package csi_test

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

func TestLife(t *testing.T) {
	r := newRig(t)
	v := r.create("pvc-1", multiWriter).up()
	wantCode(t, v.publishTo("a"), codes.OK)
	wantCode(t, v.publishTo("a"), codes.OK)
	wantCode(t, v.publishTo("b"), codes.OK)
	odd := "spaces and \\ and \t, ünïcode"
	wantCode(t, v.publishTo(odd), codes.OK)
	wantCode(t, v.publishTo(odd), codes.OK)
	if n := len(mountertest.Below(r.path("kubelet/pods"))); n != 3 {
		t.Fatalf("%d mounts", n)
	}
	wantCode(t, v.unpublish(odd), codes.OK)
	if err := os.WriteFile(v.target("a/file"), []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(v.target("b/file")); err != nil || string(b) != "hello" {
		t.Fatal(string(b), err)
	}
	wantCode(t, v.unstage(), codes.FailedPrecondition) // still published
	st := must[*spec.NodeGetVolumeStatsResponse](t)(r.node.NodeGetVolumeStats(r.ctx(), &spec.NodeGetVolumeStatsRequest{VolumeId: v.id, VolumePath: v.target("a")}))
	if st.GetUsage()[0].GetTotal() != size {
		t.Fatal(st)
	}
	_, err := r.ctrl.ControllerExpandVolume(r.ctx(), &spec.ControllerExpandVolumeRequest{VolumeId: v.id, CapacityRange: &spec.CapacityRange{RequiredBytes: 2 * size}})
	wantCode(t, err, codes.OK)
	_, err = r.node.NodeExpandVolume(r.ctx(), &spec.NodeExpandVolumeRequest{VolumeId: v.id, VolumePath: v.target("b"), CapacityRange: &spec.CapacityRange{RequiredBytes: 3 * size}})
	wantCode(t, err, codes.OutOfRange)
	ex := must[*spec.NodeExpandVolumeResponse](t)(r.node.NodeExpandVolume(r.ctx(), &spec.NodeExpandVolumeRequest{VolumeId: v.id, VolumePath: v.target("b"), CapacityRange: &spec.CapacityRange{RequiredBytes: 2 * size}}))
	if ex.GetCapacityBytes() != 2*size {
		t.Fatal(ex)
	}
	_, err = r.ctrl.DeleteVolume(r.ctx(), &spec.DeleteVolumeRequest{VolumeId: v.id})
	wantCode(t, err, codes.FailedPrecondition) // attached
	v.drop("a", "a", "b")
	for _, p := range []string{v.target("a"), v.target("b")} {
		if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s: %v", p, err)
		}
	}
	v.drop("a", "b") // all of this again
}

func TestReadWriteOncePod(t *testing.T) {
	r := newRig(t)
	v := r.create("pvc-1", singleWriter).up()
	wantCode(t, v.publishTo("a"), codes.OK)
	before := r.world()
	wantCode(t, v.publishTo("b"), codes.FailedPrecondition)
	if after := r.world(); after != before {
		t.Fatalf("before\n%s\nafter\n%s", before, after)
	}
	wantCode(t, v.unpublish("a"), codes.OK)
	wantCode(t, v.publishTo("b"), codes.OK)
	v.drop("b")
}

func TestReadOnly(t *testing.T) {
	r := newRig(t)
	v := r.create("pvc-1", multiWriter).up()
	wantCode(t, v.publishTo("rw"), codes.OK)
	req := v.publishRequest("ro")
	req.Readonly = true
	_, err := r.node.NodePublishVolume(r.ctx(), req)
	wantCode(t, err, codes.OK)
	if err := os.WriteFile(v.target("ro/file"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Fatal(err)
	}
	wantCode(t, v.publishTo("ro"), codes.AlreadyExists) // the same path, not read-only
	flags := v.publishRequest("noexec")
	flags.VolumeCapability = capability(multiWriter, "noexec", "nosuid", "nodev", "noatime")
	_, err = r.node.NodePublishVolume(r.ctx(), flags)
	wantCode(t, err, codes.OK)
	_, err = r.node.NodePublishVolume(r.ctx(), flags)
	wantCode(t, err, codes.OK)
	for _, m := range mountertest.Below(v.target("noexec")) {
		if !strings.Contains(m.Options, "noexec") || !strings.Contains(m.Options, "nosuid") || !strings.Contains(m.Options, "nodev") || !strings.Contains(m.Options, "noatime") {
			t.Fatal(m.Options)
		}
	}
	// Set-user-ID programs and devices: never at the staging directory; in a pod only without
	// nosuid and nodev.
	for dir, want := range map[string]bool{v.staging(): true, v.target("rw"): false} {
		for _, m := range mountertest.Below(dir) {
			if strings.Contains(m.Options, "nosuid") != want || strings.Contains(m.Options, "nodev") != want {
				t.Errorf("%s: %s", dir, m.Options)
			}
		}
	}
	if err := os.WriteFile(v.target("rw/file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"rw", "ro", "noexec"} {
		wantCode(t, v.unpublish(target), codes.OK)
	}
	wantCode(t, v.unstage(), codes.OK)

	// Attached read-only: never formatted, mounted read-only.
	_, err = r.ctrl.ControllerUnpublishVolume(r.ctx(), &spec.ControllerUnpublishVolumeRequest{VolumeId: v.id})
	wantCode(t, err, codes.OK)
	wantCode(t, v.attach(true), codes.OK)
	wantCode(t, v.attach(false), codes.AlreadyExists)
	wantCode(t, v.attach(true), codes.OK)
	wantCode(t, v.stage(), codes.OK)
	wantCode(t, v.publishTo("ro"), codes.OK)
	if err := os.WriteFile(v.target("ro/file"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Fatal(err)
	}
	v.drop("ro")
	blank := r.create("pvc-2", reader)
	wantCode(t, blank.attach(true), codes.OK)
	wantCode(t, blank.stage(), codes.FailedPrecondition)
	blank.drop()
}

func TestServerDies(t *testing.T) {
	r := newRig(t)
	v := r.create("pvc-1", multiWriter).up()
	wantCode(t, v.publishTo("a"), codes.OK)
	if err := os.WriteFile(v.target("a/file"), []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	health := func() []*spec.VolumeHealth_VolumeHealthEntry {
		t.Helper()
		return must[*spec.NodeGetVolumeHealthResponse](t)(r.node.NodeGetVolumeHealth(r.ctx(), &spec.NodeGetVolumeHealthRequest{VolumeId: v.id, VolumePublishPath: v.target("a")})).GetVolumeHealth().GetHealthStatuses()
	}
	if h := health(); len(h) != 0 {
		t.Fatal(h)
	}
	kill := func() {
		t.Helper()
		i, err := r.mounter.Health(r.ctx(), v.id)
		if err != nil || !i.Alive {
			t.Fatal(i, err)
		}
		if err := unix.Kill(i.PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		var err2 error
		for err2 = unix.EIO; errors.Is(err2, unix.EIO); {
			_, err2 = os.Stat(v.staging() + "/file")
		}
	}
	kill()
	if h := health(); len(h) != 1 || h[0].GetStatus() != spec.VolumeHealthErrorType_INACCESSIBLE {
		t.Fatal(h)
	}
	_, err := r.node.NodeGetVolumeStats(r.ctx(), &spec.NodeGetVolumeStatsRequest{VolumeId: v.id, VolumePath: v.target("a")})
	wantCode(t, err, codes.Unavailable)
	nokey := v.publishRequest("a")
	nokey.Secrets = nil
	_, err = r.node.NodePublishVolume(r.ctx(), nokey)
	wantCode(t, err, codes.Unauthenticated)
	wantCode(t, v.publishTo("a"), codes.OK) // the republish of the kubelet
	if b, err := os.ReadFile(v.target("a/file")); err != nil || string(b) != "kept" {
		t.Fatal(string(b), err)
	}
	if h := health(); len(h) != 0 {
		t.Fatal(h)
	}
	kill() // stage repairs it as well; the publication is stale until it is repeated
	wantCode(t, v.stage(), codes.OK)
	if h := health(); len(h) != 1 || h[0].GetReason() != "PublicationStale" {
		t.Fatal(h)
	}
	wantCode(t, v.publishTo("a"), codes.OK)
	kill() // and so does removing everything
	v.drop("a")
}

func TestTargetVanished(t *testing.T) {
	r := newRig(t)
	v := r.create("pvc-1", multiWriter).up()
	wantCode(t, v.publishTo("a"), codes.OK)
	if err := unix.Unmount(v.target("a"), 0); err != nil {
		t.Fatal(err)
	}
	wantCode(t, v.unpublish("a"), codes.OK)
	wantCode(t, v.publishTo("b"), codes.OK)
	if err := unix.Unmount(v.target("b"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(v.target("b")); err != nil {
		t.Fatal(err)
	}
	wantCode(t, v.unpublish("b"), codes.OK)
	wantCode(t, v.unpublish("gone/away"), codes.OK)
	// The driver does not touch what it did not create.
	if err := os.MkdirAll(v.target("c/precious"), 0o755); err != nil {
		t.Fatal(err)
	}
	wantCode(t, v.unpublish("c"), codes.InvalidArgument)
	if err := unix.Mount("tmpfs", v.target("c"), "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, v.unpublish("c"), codes.FailedPrecondition)
	wantCode(t, v.publishTo("c"), codes.FailedPrecondition)
	if err := unix.Unmount(v.target("c"), 0); err != nil {
		t.Fatal(err)
	}
	v.drop()
}
