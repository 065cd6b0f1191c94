package csi_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	spec "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
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
	v.drop("a", "b") // all of it again
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
	// Set-user-ID programs and devices: not at the staging directory, and in a pod unless it is said.
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
	kill() // stage mends it as well; the publication is stale until it is repeated
	wantCode(t, v.stage(), codes.OK)
	if h := health(); len(h) != 1 || h[0].GetReason() != "PublicationStale" {
		t.Fatal(h)
	}
	wantCode(t, v.publishTo("a"), codes.OK)
	kill() // and so does taking everything away
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
	// Things that are not ours stay.
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

// TestBadInput: each has its code, changes nothing, twice.
func TestBadInput(t *testing.T) {
	r := newRig(t)
	v := r.create("pvc-1", multiWriter).up()
	wantCode(t, v.publishTo("a"), codes.OK)
	loose := r.create("pvc-2", multiWriter) // not attached
	if err := os.Symlink(r.path("kubelet/pods"), r.path("kubelet/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", v.target("etc")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(v.target("plain"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	const unknown = "lv-0123456789abcdef0123456789abcdef-0123456789abcdef"
	long, caps := strings.Repeat("x", 129), []*spec.VolumeCapability{v.cap}
	rng := func(req, limit int64) *spec.CapacityRange {
		return &spec.CapacityRange{RequiredBytes: req, LimitBytes: limit}
	}
	block := &spec.VolumeCapability{AccessMode: v.cap.AccessMode, AccessType: &spec.VolumeCapability_Block{Block: &spec.VolumeCapability_BlockVolume{}}}
	fsTyped := capability(multiWriter)
	fsTyped.GetMount().FsType = "ext4"
	group := capability(multiWriter)
	group.GetMount().VolumeMountGroup = "staff"
	badCaps := map[string]*spec.VolumeCapability{
		"block": block, "fs type": fsTyped, "mount flag": capability(multiWriter, "context=x"),
		"many readers": capability(spec.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY), "one of many writes": capability(spec.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER),
		"many writers": capability(spec.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER), "future mode": capability(99),
	}
	malformedCaps := map[string]*spec.VolumeCapability{
		"no cap": nil, "no mode": {AccessType: v.cap.AccessType}, "unknown mode": capability(spec.VolumeCapability_AccessMode_UNKNOWN), "no type": {AccessMode: v.cap.AccessMode}, "mount group": group,
	}
	type test struct {
		call func() error
		code codes.Code
	}
	tests := map[string]test{}
	create := func(name string, code codes.Code, change func(*spec.CreateVolumeRequest)) {
		q := &spec.CreateVolumeRequest{Name: "new", VolumeCapabilities: caps, CapacityRange: rng(size, 0)}
		change(q)
		tests["create/"+name] = test{func() error { _, err := r.ctrl.CreateVolume(r.ctx(), q); return err }, code}
	}
	create("no name", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.Name = "" })
	create("long name", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.Name = long })
	for _, c := range []string{"\x00", "\x08", "\x0b", "\x0c", "\x0e", "\x1f", "\x7f", "\u0080", "\u009f"} {
		create(fmt.Sprintf("name with %q", c), codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.Name = "a" + c })
	}
	create("no caps", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.VolumeCapabilities = nil })
	create("negative", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.CapacityRange = rng(-1, 0) })
	create("negative limit", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.CapacityRange = rng(0, -1) })
	create("limit below required", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.CapacityRange = rng(2, 1) })
	create("too small", codes.OutOfRange, func(q *spec.CreateVolumeRequest) { q.CapacityRange = rng(0, 4096) })
	create("too big", codes.OutOfRange, func(q *spec.CreateVolumeRequest) { q.CapacityRange = rng(1<<62, 0) })
	create("more than there is", codes.ResourceExhausted, func(q *spec.CreateVolumeRequest) { q.CapacityRange = rng(15<<40, 0) })
	create("other size", codes.AlreadyExists, func(q *spec.CreateVolumeRequest) { q.Name, q.CapacityRange = "pvc-1", rng(2*size, 0) })
	create("other parameters", codes.AlreadyExists, func(q *spec.CreateVolumeRequest) { q.Name = "pvc-1" })
	create("unknown parameter", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.Parameters = map[string]string{"encryption": "off"} })
	for _, s := range []string{"", "0", "64", "3KiB", "2KiB", "2MiB", "96KiB", "-4KiB", "64KB", "KiB", "99999999999999999999KiB", "64KiBKiB", "1KMiB", "4KiB", "1MiB"} {
		create("record size "+s, codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.Parameters = map[string]string{"recordSize": s} })
	}
	create("suite", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.Parameters = map[string]string{"suite": "rot13"} })
	create("parameters too long", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) {
		q.Parameters = map[string]string{"suite": strings.Repeat("x", 5000)}
	})
	create("mutable parameters", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.MutableParameters = map[string]string{"a": "b"} })
	create("source in use", codes.FailedPrecondition, func(q *spec.CreateVolumeRequest) { // and no mount server to ask, in this rig
		q.VolumeContentSource = ofVolume(v.id)
	})
	create("no source", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.VolumeContentSource = &spec.VolumeContentSource{} })
	create("source volume of no name", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.VolumeContentSource = ofVolume("") })
	create("source snapshot of no name", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.VolumeContentSource = ofSnapshot("") })
	create("unknown source volume", codes.NotFound, func(q *spec.CreateVolumeRequest) { q.VolumeContentSource = ofVolume(unknown) })
	create("unknown source snapshot", codes.NotFound, func(q *spec.CreateVolumeRequest) { q.VolumeContentSource = ofSnapshot("snap-1") })
	create("source and other suite", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) {
		q.VolumeContentSource, q.Parameters = ofVolume(loose.id), map[string]string{"suite": "xaes256gcm"}
	})
	create("source and other access", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) {
		q.VolumeContentSource, q.VolumeCapabilities = ofVolume(loose.id), []*spec.VolumeCapability{block}
	})
	create("source larger than the limit", codes.OutOfRange, func(q *spec.CreateVolumeRequest) {
		q.VolumeContentSource, q.CapacityRange = ofVolume(loose.id), rng(0, size-4096)
	})
	create("key of its own making", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.Parameters = map[string]string{"keyVolume": v.id} })
	snap := func(name string, code codes.Code, q *spec.CreateSnapshotRequest) {
		tests["snapshot/"+name] = test{func() error { _, err := r.ctrl.CreateSnapshot(r.ctx(), q); return err }, code}
	}
	snap("no name", codes.InvalidArgument, &spec.CreateSnapshotRequest{SourceVolumeId: loose.id})
	snap("long name", codes.InvalidArgument, &spec.CreateSnapshotRequest{SourceVolumeId: loose.id, Name: long})
	snap("control", codes.InvalidArgument, &spec.CreateSnapshotRequest{SourceVolumeId: loose.id, Name: "a\x01"})
	snap("no volume", codes.InvalidArgument, &spec.CreateSnapshotRequest{Name: "s"})
	snap("unknown volume", codes.NotFound, &spec.CreateSnapshotRequest{Name: "s", SourceVolumeId: unknown})
	snap("in use", codes.FailedPrecondition, &spec.CreateSnapshotRequest{Name: "s", SourceVolumeId: v.id})
	snap("method", codes.InvalidArgument, &spec.CreateSnapshotRequest{Name: "s", SourceVolumeId: loose.id, Parameters: map[string]string{"method": "store"}})
	snap("parameter", codes.InvalidArgument, &spec.CreateSnapshotRequest{Name: "s", SourceVolumeId: loose.id, Parameters: map[string]string{"x": "y"}})
	snap("topology", codes.InvalidArgument, &spec.CreateSnapshotRequest{Name: "s", SourceVolumeId: loose.id, AccessibilityRequirements: &spec.TopologyRequirement{}})
	tests["snapshots/bad token"] = test{func() error {
		_, err := r.ctrl.ListSnapshots(r.ctx(), &spec.ListSnapshotsRequest{StartingToken: "x"})
		return err
	}, codes.Aborted}
	tests["snapshots/negative"] = test{func() error {
		_, err := r.ctrl.ListSnapshots(r.ctx(), &spec.ListSnapshotsRequest{MaxEntries: -1})
		return err
	}, codes.InvalidArgument}
	for n, c := range map[string]struct {
		id        string
		get, gone codes.Code
	}{"none": {"", codes.InvalidArgument, codes.InvalidArgument}, "long": {long, codes.InvalidArgument, codes.InvalidArgument},
		"unknown": {"snap-1", codes.NotFound, codes.OK}, "a volume's": {v.id, codes.NotFound, codes.OK}} {
		tests["get snapshot/id "+n] = test{func() error {
			_, err := r.ctrl.GetSnapshot(r.ctx(), &spec.GetSnapshotRequest{SnapshotId: c.id})
			return err
		}, c.get}
		tests["delete snapshot/id "+n] = test{func() error {
			_, err := r.ctrl.DeleteSnapshot(r.ctx(), &spec.DeleteSnapshotRequest{SnapshotId: c.id})
			return err
		}, c.gone}
	}
	create("topology", codes.ResourceExhausted, func(q *spec.CreateVolumeRequest) {
		q.AccessibilityRequirements = &spec.TopologyRequirement{Requisite: []*spec.Topology{{Segments: map[string]string{"topology.csi.sealvol.dev/node": "elsewhere"}}}}
	})
	for n, c := range badCaps {
		create(n, codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.VolumeCapabilities = []*spec.VolumeCapability{v.cap, c} })
	}
	attach := func(name string, code codes.Code, change func(*spec.ControllerPublishVolumeRequest)) {
		q := &spec.ControllerPublishVolumeRequest{VolumeId: loose.id, NodeId: node, VolumeCapability: v.cap}
		change(q)
		tests["attach/"+name] = test{func() error { _, err := r.ctrl.ControllerPublishVolume(r.ctx(), q); return err }, code}
	}
	attach("unknown node", codes.NotFound, func(q *spec.ControllerPublishVolumeRequest) { q.NodeId = "nowhere" })
	attach("no node", codes.InvalidArgument, func(q *spec.ControllerPublishVolumeRequest) { q.NodeId = "" })
	attach("long node", codes.InvalidArgument, func(q *spec.ControllerPublishVolumeRequest) { q.NodeId = strings.Repeat("n", 257) })
	attach("other mode", codes.AlreadyExists, func(q *spec.ControllerPublishVolumeRequest) { q.VolumeId, q.Readonly = v.id, true })
	attach("context", codes.InvalidArgument, func(q *spec.ControllerPublishVolumeRequest) { q.VolumeContext = map[string]string{"x": "y"} })
	stage := func(name string, code codes.Code, change func(*spec.NodeStageVolumeRequest)) {
		q := &spec.NodeStageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging(), VolumeCapability: v.cap, VolumeContext: v.context, Secrets: v.secrets}
		change(q)
		tests["stage/"+name] = test{func() error { _, err := r.node.NodeStageVolume(r.ctx(), q); return err }, code}
	}
	stage("not attached", codes.FailedPrecondition, func(q *spec.NodeStageVolumeRequest) { q.VolumeId = loose.id })
	stage("no secret", codes.Unauthenticated, func(q *spec.NodeStageVolumeRequest) { q.Secrets = nil })
	stage("bad context", codes.InvalidArgument, func(q *spec.NodeStageVolumeRequest) { q.VolumeContext = map[string]string{"x": "y"} })
	stage("long publish context", codes.InvalidArgument, func(q *spec.NodeStageVolumeRequest) {
		q.PublishContext = map[string]string{"x": strings.Repeat("y", 5000)}
	})
	for n, s := range map[string]string{"short": "abc", "no hex": strings.Repeat("zz", 32), "33 bytes": strings.Repeat("k", 33), "66 digits": kek + "00", "empty": ""} {
		stage("kek "+n, codes.Unauthenticated, func(q *spec.NodeStageVolumeRequest) { q.Secrets = map[string]string{"kek": s} })
		if s != "" {
			stage("previous kek "+n, codes.Unauthenticated, func(q *spec.NodeStageVolumeRequest) { q.Secrets = map[string]string{"kek": kek, "kek-previous": s} })
		}
	}
	stage("other path", codes.AlreadyExists, func(q *spec.NodeStageVolumeRequest) { q.StagingTargetPath = r.path("kubelet/pods") })
	publish := func(name string, code codes.Code, change func(*spec.NodePublishVolumeRequest)) {
		q := v.publishRequest("new")
		change(q)
		tests["publish/"+name] = test{func() error { _, err := r.node.NodePublishVolume(r.ctx(), q); return err }, code}
	}
	publish("no staging path", codes.FailedPrecondition, func(q *spec.NodePublishVolumeRequest) { q.StagingTargetPath = "" })
	publish("other staging path", codes.FailedPrecondition, func(q *spec.NodePublishVolumeRequest) { q.StagingTargetPath = r.path("kubelet/elsewhere") })
	publish("not attached", codes.FailedPrecondition, func(q *spec.NodePublishVolumeRequest) { q.VolumeId = loose.id })
	publish("target is staging", codes.InvalidArgument, func(q *spec.NodePublishVolumeRequest) { q.TargetPath = v.staging() })
	publish("target is a file", codes.InvalidArgument, func(q *spec.NodePublishVolumeRequest) { q.TargetPath = v.target("plain") })
	publish("parent is a file", codes.InvalidArgument, func(q *spec.NodePublishVolumeRequest) { q.TargetPath = v.target("plain/x") })
	publish("no parent", codes.InvalidArgument, func(q *spec.NodePublishVolumeRequest) { q.TargetPath = v.target("none/x") })
	publish("bad key", codes.Unauthenticated, func(q *spec.NodePublishVolumeRequest) { q.Secrets = map[string]string{"kek": "x"} })
	badPaths := map[string]string{
		"relative": "pods/x", "root": "/", "the kubelet's directory": r.path("kubelet"), "elsewhere": "/etc/x", "beside": r.path("kubelet-x/y"), "dots": r.path("kubelet") + "/pods/../x",
		"dots out": r.path("kubelet") + "/../x", "linked parent": r.path("kubelet/link/x"), "link": v.target("etc"), "through a link": v.target("etc/passwd"),
		"control": v.target("a\x01"), "long": r.path("kubelet/") + strings.Repeat("/x", 2100), "long component": v.target(strings.Repeat("x", 300) + "/y"),
	}
	for n, p := range badPaths {
		publish("target "+n, codes.InvalidArgument, func(q *spec.NodePublishVolumeRequest) { q.TargetPath = p })
		stage("path "+n, codes.InvalidArgument, func(q *spec.NodeStageVolumeRequest) { q.StagingTargetPath = p })
		if n != "long component" {
			tests["unpublish/path "+n] = test{func() error {
				_, err := r.node.NodeUnpublishVolume(r.ctx(), &spec.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: p})
				return err
			}, codes.InvalidArgument}
			tests["unstage/path "+n] = test{func() error {
				_, err := r.node.NodeUnstageVolume(r.ctx(), &spec.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: p})
				return err
			}, codes.InvalidArgument}
		}
		tests["stats/path "+n] = test{func() error {
			_, err := r.node.NodeGetVolumeStats(r.ctx(), &spec.NodeGetVolumeStatsRequest{VolumeId: v.id, VolumePath: p})
			return err
		}, map[bool]codes.Code{true: codes.InvalidArgument, false: codes.NotFound}[n == "control" || n == "long"]}
	}
	for n, c := range badCaps {
		stage(n, codes.FailedPrecondition, func(q *spec.NodeStageVolumeRequest) { q.VolumeCapability = c })
		publish(n, codes.FailedPrecondition, func(q *spec.NodePublishVolumeRequest) { q.VolumeCapability = c })
		attach(n, codes.InvalidArgument, func(q *spec.ControllerPublishVolumeRequest) { q.VolumeCapability = c })
	}
	for n, c := range malformedCaps {
		stage(n, codes.InvalidArgument, func(q *spec.NodeStageVolumeRequest) { q.VolumeCapability = c })
		publish(n, codes.InvalidArgument, func(q *spec.NodePublishVolumeRequest) { q.VolumeCapability = c })
		attach(n, codes.InvalidArgument, func(q *spec.ControllerPublishVolumeRequest) { q.VolumeCapability = c })
		if c != nil {
			create(n, codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.VolumeCapabilities = []*spec.VolumeCapability{c} })
		}
	}
	expand := func(name string, code codes.Code, id string, rg *spec.CapacityRange, c *spec.VolumeCapability) {
		tests["expand/"+name] = test{func() error {
			_, err := r.ctrl.ControllerExpandVolume(r.ctx(), &spec.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: rg, VolumeCapability: c})
			return err
		}, code}
	}
	expand("no range", codes.InvalidArgument, v.id, nil, nil)
	expand("empty range", codes.InvalidArgument, v.id, rng(0, 0), nil)
	expand("negative", codes.InvalidArgument, v.id, rng(-1, 0), nil)
	expand("below", codes.OutOfRange, v.id, rng(1, 4096), nil)
	expand("too big", codes.OutOfRange, v.id, rng(1<<62, 0), nil)
	expand("more than there is", codes.ResourceExhausted, v.id, rng(15<<40, 0), nil)
	expand("block", codes.InvalidArgument, v.id, rng(2*size, 0), block)
	// Ids, in every call that has one.
	for n, c := range map[string]struct {
		id   string
		code codes.Code // where the volume must exist
		gone codes.Code // where it need not
	}{
		"none": {"", codes.InvalidArgument, codes.InvalidArgument}, "long": {long, codes.InvalidArgument, codes.InvalidArgument},
		"control": {"a\nb\x01", codes.InvalidArgument, codes.InvalidArgument}, "unknown": {unknown, codes.NotFound, codes.OK},
		"dots": {"../" + v.id, codes.NotFound, codes.OK}, "no id of ours": {"vol-1", codes.NotFound, codes.OK},
	} {
		attach("id "+n, c.code, func(q *spec.ControllerPublishVolumeRequest) { q.VolumeId = c.id })
		stage("id "+n, c.code, func(q *spec.NodeStageVolumeRequest) { q.VolumeId = c.id })
		publish("id "+n, c.code, func(q *spec.NodePublishVolumeRequest) { q.VolumeId = c.id })
		expand("id "+n, c.code, c.id, rng(2*size, 0), nil)
		add := func(name string, code codes.Code, call func() error) { tests[name+"/id "+n] = test{call, code} }
		add("delete", c.gone, func() error {
			_, err := r.ctrl.DeleteVolume(r.ctx(), &spec.DeleteVolumeRequest{VolumeId: c.id})
			return err
		})
		add("detach", c.gone, func() error {
			_, err := r.ctrl.ControllerUnpublishVolume(r.ctx(), &spec.ControllerUnpublishVolumeRequest{VolumeId: c.id, NodeId: node})
			return err
		})
		add("get", c.code, func() error {
			_, err := r.ctrl.ControllerGetVolume(r.ctx(), &spec.ControllerGetVolumeRequest{VolumeId: c.id})
			return err
		})
		add("controller health", c.code, func() error {
			_, err := r.ctrl.ControllerGetVolumeHealth(r.ctx(), &spec.ControllerGetVolumeHealthRequest{VolumeId: c.id})
			return err
		})
		add("validate", c.code, func() error {
			_, err := r.ctrl.ValidateVolumeCapabilities(r.ctx(), &spec.ValidateVolumeCapabilitiesRequest{VolumeId: c.id, VolumeCapabilities: caps})
			return err
		})
		add("node health", c.code, func() error {
			_, err := r.node.NodeGetVolumeHealth(r.ctx(), &spec.NodeGetVolumeHealthRequest{VolumeId: c.id})
			return err
		})
		add("stats", c.code, func() error {
			_, err := r.node.NodeGetVolumeStats(r.ctx(), &spec.NodeGetVolumeStatsRequest{VolumeId: c.id, VolumePath: v.target("a")})
			return err
		})
		add("node expand", c.code, func() error {
			_, err := r.node.NodeExpandVolume(r.ctx(), &spec.NodeExpandVolumeRequest{VolumeId: c.id, VolumePath: v.target("a")})
			return err
		})
		add("unpublish", c.gone, func() error {
			_, err := r.node.NodeUnpublishVolume(r.ctx(), &spec.NodeUnpublishVolumeRequest{VolumeId: c.id, TargetPath: v.target("never")})
			return err
		})
		add("unstage", c.gone, func() error {
			_, err := r.node.NodeUnstageVolume(r.ctx(), &spec.NodeUnstageVolumeRequest{VolumeId: c.id, StagingTargetPath: r.path("kubelet/never")})
			return err
		})
	}
	tests["unpublish/another volume's target"] = test{func() error {
		_, err := r.node.NodeUnpublishVolume(r.ctx(), &spec.NodeUnpublishVolumeRequest{VolumeId: loose.id, TargetPath: v.target("a")})
		return err
	}, codes.FailedPrecondition}
	tests["list/bad token"] = test{func() error {
		_, err := r.ctrl.ListVolumes(r.ctx(), &spec.ListVolumesRequest{StartingToken: "x"})
		return err
	}, codes.Aborted}
	tests["list/negative"] = test{func() error {
		_, err := r.ctrl.ListVolumes(r.ctx(), &spec.ListVolumesRequest{MaxEntries: -1})
		return err
	}, codes.InvalidArgument}
	tests["modify"] = test{func() error {
		_, err := r.ctrl.ControllerModifyVolume(r.ctx(), &spec.ControllerModifyVolumeRequest{VolumeId: v.id})
		return err
	}, codes.Unimplemented}

	before := r.world()
	for name, c := range tests {
		for range 2 {
			if err := c.call(); status.Code(err) != c.code {
				t.Errorf("%s: got %v (%v), want %v", name, status.Code(err), err, c.code)
			}
		}
		if after := r.world(); after != before {
			t.Fatalf("%s changed something: before\n%s\nafter\n%s", name, before, after)
		}
	}
	t.Logf("%d calls", len(tests))
	v.drop("a")
	loose.drop()
}

// TestNothingSecretIsLogged runs through everything with marked secrets and contexts, at debug level.
func TestNothingSecretIsLogged(t *testing.T) {
	r := newRig(t)
	const secret, private = "5ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2", "PRIVATEMARK"
	var errs strings.Builder
	note := func(err error) {
		if err != nil {
			errs.WriteString(err.Error() + "\n")
		}
	}
	v := r.create("pvc-1", multiWriter)
	v.secrets = map[string]string{"kek": secret, "token": private}
	v.context = map[string]string{"recordSize": "64KiB", "csi.storage.k8s.io/pod.name": private}
	note(v.attach(false))
	v.publish = map[string]string{"device": private}
	note(v.stage())
	note(v.publishTo("a"))
	if errs.Len() != 0 {
		t.Fatal(errs.String())
	}
	v.secrets = map[string]string{"kek": secret[:62] + "zz", "kek-previous": private}
	note(v.stage())
	note(v.publishTo("b"))
	v.secrets = map[string]string{"kek": private + secret}
	note(v.stage())
	v.context = map[string]string{private: private}
	note(v.stage())
	note(v.publishTo("b"))
	note(v.attach(false))
	v.context = map[string]string{"recordSize": private}
	note(v.stage())
	v.context = map[string]string{"suite": private}
	note(v.stage())
	v.context, v.publish = nil, map[string]string{"device": strings.Repeat(private, 1000)}
	note(v.stage())
	v.publish = nil
	for _, c := range []*spec.VolumeCapability{capability(multiWriter, "password="+private)} {
		v.cap = c
		note(v.stage())
		note(v.attach(false))
	}
	_, err := r.ctrl.CreateVolume(r.ctx(), &spec.CreateVolumeRequest{Name: "x", VolumeCapabilities: []*spec.VolumeCapability{capability(writer)},
		Parameters: map[string]string{"suite": private}, Secrets: map[string]string{"a": private}})
	note(err)
	_, err = r.ctrl.ValidateVolumeCapabilities(r.ctx(), &spec.ValidateVolumeCapabilitiesRequest{VolumeId: v.id, VolumeCapabilities: []*spec.VolumeCapability{capability(writer)}, VolumeContext: map[string]string{private: private}, Secrets: map[string]string{"a": private}})
	note(err)
	_, err = r.ctrl.ControllerExpandVolume(r.ctx(), &spec.ControllerExpandVolumeRequest{VolumeId: v.id, Secrets: map[string]string{"a": private}})
	note(err)
	v.cap = capability(multiWriter)
	v.drop("a", "b")
	log := r.log.String()
	if !strings.Contains(log, "NodeStageVolume") || !strings.Contains(log, "staging_target_path") || strings.Count(errs.String(), "\n") < 8 {
		t.Fatalf("the workflow did not run as meant:\n%s\n%s", errs.String(), log)
	}
	for _, mark := range []string{secret, secret[:16], private, "\"kek\""} {
		if strings.Contains(log, mark) || strings.Contains(errs.String(), mark) {
			t.Errorf("%q was let out", mark)
		}
	}
}

// TestCancelled cuts calls off at random moments and repeats them.
func TestCancelled(t *testing.T) {
	r := newRig(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	v := r.create("pvc-1", multiWriter)
	wantCode(t, v.attach(false), codes.OK)
	cut := func(call func(context.Context) error) {
		t.Helper()
		for range 3 {
			ctx, cancel := context.WithCancel(r.ctx())
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = call(ctx) // cut off or not
			}()
			for range rnd.IntN(2000) {
				select {
				case <-done:
				default:
				}
			}
			cancel()
			<-done
		}
		for { // what was cut off may still be under way
			err := call(r.ctx())
			if status.Code(err) == codes.Aborted {
				continue
			}
			wantCode(t, err, codes.OK)
			return
		}
	}
	for range 5 {
		cut(func(ctx context.Context) error {
			_, err := r.node.NodeStageVolume(ctx, &spec.NodeStageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging(), VolumeCapability: v.cap, VolumeContext: v.context, Secrets: v.secrets})
			return err
		})
		cut(func(ctx context.Context) error {
			_, err := r.node.NodePublishVolume(ctx, v.publishRequest("a"))
			return err
		})
		if n := len(mountertest.Below(v.target("a"))); n != 1 {
			t.Fatalf("%d mounts", n)
		}
		cut(func(ctx context.Context) error {
			_, err := r.node.NodeUnpublishVolume(ctx, &spec.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: v.target("a")})
			return err
		})
		cut(func(ctx context.Context) error {
			_, err := r.node.NodeUnstageVolume(ctx, &spec.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging()})
			return err
		})
	}
	v.drop("a")
}

func TestIdentity(t *testing.T) {
	r := newRig(t)
	i := must[*spec.GetPluginInfoResponse](t)(r.id.GetPluginInfo(r.ctx(), &spec.GetPluginInfoRequest{}))
	if i.GetName() != "csi.sealvol.dev" || i.GetVendorVersion() != "test" {
		t.Fatal(i)
	}
	c := must[*spec.GetPluginCapabilitiesResponse](t)(r.id.GetPluginCapabilities(r.ctx(), &spec.GetPluginCapabilitiesRequest{}))
	if len(c.GetCapabilities()) != 3 {
		t.Fatal(c)
	}
	n := must[*spec.NodeGetInfoResponse](t)(r.node.NodeGetInfo(r.ctx(), &spec.NodeGetInfoRequest{}))
	if n.GetNodeId() != node || n.GetAccessibleTopology().GetSegments()["topology.csi.sealvol.dev/node"] != node {
		t.Fatal(n)
	}
	ready := func() bool {
		return must[*spec.ProbeResponse](t)(r.id.Probe(r.ctx(), &spec.ProbeRequest{})).GetReady().GetValue()
	}
	storage := func() []*spec.NodeGetStorageHealthResponse_StorageBackendHealth {
		return must[*spec.NodeGetStorageHealthResponse](t)(r.node.NodeGetStorageHealth(r.ctx(), &spec.NodeGetStorageHealthRequest{})).GetBackendHealth()
	}
	if !ready() || len(storage()) != 0 {
		t.Fatal("not ready", storage())
	}
	r.stopMounter()
	if h := storage(); ready() || len(h) != 1 || h[0].GetStatus() != spec.StorageHealthErrorType_STORAGE_UNREACHABLE || h[0].GetReason() != "MounterUnreachable" {
		t.Fatal("ready without a mounter", h)
	}
}

func TestValidateAndList(t *testing.T) {
	r := newRig(t)
	var all []*vol
	for i := range 5 {
		all = append(all, r.create(fmt.Sprint("pvc-", i), multiWriter))
	}
	wantCode(t, all[2].attach(false), codes.OK)
	token, seen := "", map[string][]string{}
	for pages := 0; pages == 0 || token != ""; pages++ {
		l := must[*spec.ListVolumesResponse](t)(r.ctrl.ListVolumes(r.ctx(), &spec.ListVolumesRequest{MaxEntries: 2, StartingToken: token}))
		for _, e := range l.GetEntries() {
			seen[e.GetVolume().GetVolumeId()] = e.GetStatus().GetPublishedNodeIds()
		}
		token = l.GetNextToken()
	}
	if len(seen) != 5 || len(seen[all[2].id]) != 1 || len(seen[all[1].id]) != 0 {
		t.Fatal(seen)
	}
	g := must[*spec.ControllerGetVolumeResponse](t)(r.ctrl.ControllerGetVolume(r.ctx(), &spec.ControllerGetVolumeRequest{VolumeId: all[2].id}))
	if g.GetStatus().GetPublishedNodeIds()[0] != node || g.GetVolume().GetCapacityBytes() != size || g.GetVolume().GetVolumeContext()["recordSize"] != "64KiB" {
		t.Fatal(g)
	}
	for name, c := range map[string]struct {
		q  *spec.ValidateVolumeCapabilitiesRequest
		ok bool
	}{
		"plain":   {&spec.ValidateVolumeCapabilitiesRequest{}, true},
		"context": {&spec.ValidateVolumeCapabilitiesRequest{VolumeContext: map[string]string{"recordSize": "64KiB", "storage.kubernetes.io/csiProvisionerIdentity": "x"}}, true},
		"other":   {&spec.ValidateVolumeCapabilitiesRequest{VolumeContext: map[string]string{"suite": "xaes256gcm"}}, false},
		"unknown": {&spec.ValidateVolumeCapabilitiesRequest{Parameters: map[string]string{"x": "y"}}, false},
		"mutable": {&spec.ValidateVolumeCapabilitiesRequest{MutableParameters: map[string]string{"x": "y"}}, false},
		"RWX":     {&spec.ValidateVolumeCapabilitiesRequest{VolumeCapabilities: []*spec.VolumeCapability{capability(spec.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)}}, false},
	} {
		c.q.VolumeId = all[0].id
		if c.q.VolumeCapabilities == nil {
			c.q.VolumeCapabilities = []*spec.VolumeCapability{capability(writer), capability(singleWriter), capability(reader)}
		}
		v := must[*spec.ValidateVolumeCapabilitiesResponse](t)(r.ctrl.ValidateVolumeCapabilities(r.ctx(), c.q))
		if (v.GetConfirmed() != nil) != c.ok || (v.GetMessage() == "") != c.ok {
			t.Errorf("%s: %v", name, v)
		}
	}
	// Alpha health, by our own client: two images vanish.
	for _, i := range []int{1, 3} {
		if err := os.Remove(r.path("local/images/" + all[i].id + ".img")); err != nil {
			t.Fatal(err)
		}
	}
	h := must[*spec.ControllerGetVolumeHealthResponse](t)(r.ctrl.ControllerGetVolumeHealth(r.ctx(), &spec.ControllerGetVolumeHealthRequest{VolumeId: all[1].id}))
	if s := h.GetVolumeHealth().GetHealthStatuses(); len(s) != 2 || s[0].GetStatus() != spec.VolumeHealthErrorType_DATA_LOSS || s[1].GetStatus() != spec.VolumeHealthErrorType_INACCESSIBLE {
		t.Fatal(s)
	}
	ill := map[string]bool{}
	for pages := 0; pages == 0 || token != ""; pages++ {
		l := must[*spec.ControllerListVolumeHealthResponse](t)(r.ctrl.ControllerListVolumeHealth(r.ctx(), &spec.ControllerListVolumeHealthRequest{MaxEntries: 1, StartingToken: token}))
		if len(l.GetEntries()) > 1 {
			t.Fatal(l)
		}
		for _, e := range l.GetEntries() {
			ill[e.GetVolumeId()] = true
		}
		token = l.GetNextToken()
	}
	if len(ill) != 2 || !ill[all[1].id] || !ill[all[3].id] {
		t.Fatal(ill)
	}
	wantCode(t, all[1].attach(false), codes.OK)
	wantCode(t, all[1].stage(), codes.DataLoss)
	n := must[*spec.NodeGetVolumeHealthResponse](t)(r.node.NodeGetVolumeHealth(r.ctx(), &spec.NodeGetVolumeHealthRequest{VolumeId: all[1].id, StagingTargetPath: all[1].staging()}))
	if s := n.GetVolumeHealth().GetHealthStatuses(); len(s) != 1 || s[0].GetStatus() != spec.VolumeHealthErrorType_INACCESSIBLE {
		t.Fatal(s)
	}
	for _, v := range all {
		v.drop()
	}
}

// TestBusyAndPanic: a second operation on a volume is refused at once; a panic is an error, and its value is not told.
func TestBusyAndPanic(t *testing.T) {
	r := newRig(t)
	v := r.create("pvc-1", multiWriter)
	wantCode(t, v.attach(false), codes.OK)
	reached, release := make(chan bool), make(chan bool)
	r.setHook(func(step string) {
		if step == "stage" {
			reached <- true
			<-release
		}
	})
	first := make(chan error)
	go func() { first <- v.stage() }()
	<-reached
	wantCode(t, v.stage(), codes.Aborted)
	wantCode(t, v.unstage(), codes.Aborted)
	_, err := r.ctrl.DeleteVolume(r.ctx(), &spec.DeleteVolumeRequest{VolumeId: v.id})
	wantCode(t, err, codes.Aborted)
	must[*spec.ControllerGetVolumeResponse](t)(r.ctrl.ControllerGetVolume(r.ctx(), &spec.ControllerGetVolumeRequest{VolumeId: v.id}))
	r.setHook(nil)
	release <- true
	wantCode(t, <-first, codes.OK)

	r.setHook(func(string) { panic("TOPSECRET") })
	for range 2 {
		err = v.publishTo("a")
		wantCode(t, err, codes.Internal)
	}
	if strings.Contains(err.Error(), "TOPSECRET") || strings.Contains(r.log.String(), "TOPSECRET") || !strings.Contains(r.log.String(), "panic") {
		t.Fatal(err)
	}
	r.setHook(nil)
	wantCode(t, v.publishTo("a"), codes.OK)
	v.drop("a")
}
