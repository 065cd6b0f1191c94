package csi_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
)

// unknownID is the id of a volume that never existed.
const unknownID = "lv-0123456789abcdef0123456789abcdef-0123456789abcdef"

var longID = strings.Repeat("x", 129)

// badCalls are calls that must be refused, by what is wrong with them.
type badCalls struct {
	t        *testing.T
	r        *rig
	v, loose *vol // staged and published at "a"; not attached
	block    *spec.VolumeCapability
	all      map[string]badCall
}

type badCall struct {
	call func() error
	code codes.Code
}

func (b *badCalls) add(name string, code codes.Code, call func() error) {
	if _, twice := b.all[name]; twice {
		b.t.Fatalf("two calls %q", name)
	}
	b.all[name] = badCall{call, code}
}

func byteRange(required, limit int64) *spec.CapacityRange {
	return &spec.CapacityRange{RequiredBytes: required, LimitBytes: limit}
}

func (b *badCalls) create(name string, code codes.Code, change func(*spec.CreateVolumeRequest)) {
	q := &spec.CreateVolumeRequest{Name: "new", VolumeCapabilities: []*spec.VolumeCapability{b.v.cap}, CapacityRange: byteRange(size, 0)}
	change(q)
	b.add("create/"+name, code, func() error { _, err := b.r.ctrl.CreateVolume(b.r.ctx(), q); return err })
}

func (b *badCalls) snap(name string, code codes.Code, q *spec.CreateSnapshotRequest) {
	b.add("snapshot/"+name, code, func() error { _, err := b.r.ctrl.CreateSnapshot(b.r.ctx(), q); return err })
}

func (b *badCalls) attach(name string, code codes.Code, change func(*spec.ControllerPublishVolumeRequest)) {
	q := &spec.ControllerPublishVolumeRequest{VolumeId: b.loose.id, NodeId: node, VolumeCapability: b.v.cap}
	change(q)
	b.add("attach/"+name, code, func() error { _, err := b.r.ctrl.ControllerPublishVolume(b.r.ctx(), q); return err })
}

func (b *badCalls) stage(name string, code codes.Code, change func(*spec.NodeStageVolumeRequest)) {
	q := &spec.NodeStageVolumeRequest{VolumeId: b.v.id, StagingTargetPath: b.v.staging(), VolumeCapability: b.v.cap, VolumeContext: b.v.context, Secrets: b.v.secrets}
	change(q)
	b.add("stage/"+name, code, func() error { _, err := b.r.node.NodeStageVolume(b.r.ctx(), q); return err })
}

func (b *badCalls) publish(name string, code codes.Code, change func(*spec.NodePublishVolumeRequest)) {
	q := b.v.publishRequest("new")
	change(q)
	b.add("publish/"+name, code, func() error { _, err := b.r.node.NodePublishVolume(b.r.ctx(), q); return err })
}

func (b *badCalls) expand(name string, code codes.Code, id string, r *spec.CapacityRange, c *spec.VolumeCapability) {
	b.add("expand/"+name, code, func() error {
		_, err := b.r.ctrl.ControllerExpandVolume(b.r.ctx(), &spec.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: r, VolumeCapability: c})
		return err
	})
}

// creates adds calls that are refused for their name, size or parameters.
func (b *badCalls) creates() {
	b.create("no name", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.Name = "" })
	b.create("long name", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.Name = longID })
	for _, c := range []string{"\x00", "\x08", "\x0b", "\x0c", "\x0e", "\x1f", "\x7f", "\u0080", "\u009f"} {
		b.create(fmt.Sprintf("name with %q", c), codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.Name = "a" + c })
	}
	b.create("no caps", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.VolumeCapabilities = nil })
	b.create("negative", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.CapacityRange = byteRange(-1, 0) })
	b.create("negative limit", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.CapacityRange = byteRange(0, -1) })
	b.create("limit below required", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.CapacityRange = byteRange(2, 1) })
	b.create("too small", codes.OutOfRange, func(q *spec.CreateVolumeRequest) { q.CapacityRange = byteRange(0, 4096) })
	b.create("too big", codes.OutOfRange, func(q *spec.CreateVolumeRequest) { q.CapacityRange = byteRange(1<<62, 0) })
	b.create("more than there is", codes.ResourceExhausted, func(q *spec.CreateVolumeRequest) { q.CapacityRange = byteRange(15<<40, 0) })
	b.create("other size", codes.AlreadyExists, func(q *spec.CreateVolumeRequest) { q.Name, q.CapacityRange = "pvc-1", byteRange(2*size, 0) })
	b.create("other parameters", codes.AlreadyExists, func(q *spec.CreateVolumeRequest) { q.Name = "pvc-1" })
	b.create("unknown parameter", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.Parameters = map[string]string{"encryption": "off"} })
	for _, s := range []string{"", "0", "64", "3KiB", "2KiB", "2MiB", "96KiB", "-4KiB", "64KB", "KiB", "99999999999999999999KiB", "64KiBKiB", "1KMiB", "4KiB", "1MiB"} {
		b.create("record size "+s, codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.Parameters = map[string]string{"recordSize": s} })
	}
	b.create("suite", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.Parameters = map[string]string{"suite": "rot13"} })
	b.create("parameters too long", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) {
		q.Parameters = map[string]string{"suite": strings.Repeat("x", 5000)}
	})
	b.create("mutable parameters", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.MutableParameters = map[string]string{"a": "b"} })
	b.create("topology", codes.ResourceExhausted, func(q *spec.CreateVolumeRequest) {
		q.AccessibilityRequirements = &spec.TopologyRequirement{Requisite: []*spec.Topology{{Segments: map[string]string{"topology.csi.sealvol.dev/node": "elsewhere"}}}}
	})
}

// copies adds calls that are refused for their source.
func (b *badCalls) copies() {
	b.create("source in use", codes.FailedPrecondition, func(q *spec.CreateVolumeRequest) { // this rig has no mount server to freeze
		q.VolumeContentSource = ofVolume(b.v.id)
	})
	b.create("no source", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.VolumeContentSource = &spec.VolumeContentSource{} })
	b.create("source volume of no name", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.VolumeContentSource = ofVolume("") })
	b.create("source snapshot of no name", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.VolumeContentSource = ofSnapshot("") })
	b.create("unknown source volume", codes.NotFound, func(q *spec.CreateVolumeRequest) { q.VolumeContentSource = ofVolume(unknownID) })
	b.create("unknown source snapshot", codes.NotFound, func(q *spec.CreateVolumeRequest) { q.VolumeContentSource = ofSnapshot("snap-1") })
	b.create("source and other suite", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) {
		q.VolumeContentSource, q.Parameters = ofVolume(b.loose.id), map[string]string{"suite": "xaes256gcm"}
	})
	b.create("source and other access", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) {
		q.VolumeContentSource, q.VolumeCapabilities = ofVolume(b.loose.id), []*spec.VolumeCapability{b.block}
	})
	b.create("source larger than the limit", codes.OutOfRange, func(q *spec.CreateVolumeRequest) {
		q.VolumeContentSource, q.CapacityRange = ofVolume(b.loose.id), byteRange(0, size-4096)
	})
	b.create("key of its own making", codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.Parameters = map[string]string{"keyVolume": b.v.id} })
}

// snapshots adds snapshot calls that are refused.
func (b *badCalls) snapshots() {
	b.snap("no name", codes.InvalidArgument, &spec.CreateSnapshotRequest{SourceVolumeId: b.loose.id})
	b.snap("long name", codes.InvalidArgument, &spec.CreateSnapshotRequest{SourceVolumeId: b.loose.id, Name: longID})
	b.snap("control", codes.InvalidArgument, &spec.CreateSnapshotRequest{SourceVolumeId: b.loose.id, Name: "a\x01"})
	b.snap("no volume", codes.InvalidArgument, &spec.CreateSnapshotRequest{Name: "s"})
	b.snap("unknown volume", codes.NotFound, &spec.CreateSnapshotRequest{Name: "s", SourceVolumeId: unknownID})
	b.snap("in use", codes.FailedPrecondition, &spec.CreateSnapshotRequest{Name: "s", SourceVolumeId: b.v.id})
	b.snap("method", codes.InvalidArgument, &spec.CreateSnapshotRequest{Name: "s", SourceVolumeId: b.loose.id, Parameters: map[string]string{"method": "store"}})
	b.snap("parameter", codes.InvalidArgument, &spec.CreateSnapshotRequest{Name: "s", SourceVolumeId: b.loose.id, Parameters: map[string]string{"x": "y"}})
	b.snap("topology", codes.InvalidArgument, &spec.CreateSnapshotRequest{Name: "s", SourceVolumeId: b.loose.id, AccessibilityRequirements: &spec.TopologyRequirement{}})
	b.add("snapshots/bad token", codes.Aborted, func() error {
		_, err := b.r.ctrl.ListSnapshots(b.r.ctx(), &spec.ListSnapshotsRequest{StartingToken: "x"})
		return err
	})
	b.add("snapshots/negative", codes.InvalidArgument, func() error {
		_, err := b.r.ctrl.ListSnapshots(b.r.ctx(), &spec.ListSnapshotsRequest{MaxEntries: -1})
		return err
	})
	for n, c := range map[string]struct {
		id        string
		get, gone codes.Code
	}{"none": {"", codes.InvalidArgument, codes.InvalidArgument}, "long": {longID, codes.InvalidArgument, codes.InvalidArgument},
		"unknown": {"snap-1", codes.NotFound, codes.OK}, "a volume's": {b.v.id, codes.NotFound, codes.OK}} {
		b.add("get snapshot/id "+n, c.get, func() error {
			_, err := b.r.ctrl.GetSnapshot(b.r.ctx(), &spec.GetSnapshotRequest{SnapshotId: c.id})
			return err
		})
		b.add("delete snapshot/id "+n, c.gone, func() error {
			_, err := b.r.ctrl.DeleteSnapshot(b.r.ctx(), &spec.DeleteSnapshotRequest{SnapshotId: c.id})
			return err
		})
	}
}

// attachments adds calls that are refused for their node, key or context.
func (b *badCalls) attachments() {
	b.attach("unknown node", codes.NotFound, func(q *spec.ControllerPublishVolumeRequest) { q.NodeId = "nowhere" })
	b.attach("no node", codes.InvalidArgument, func(q *spec.ControllerPublishVolumeRequest) { q.NodeId = "" })
	b.attach("long node", codes.InvalidArgument, func(q *spec.ControllerPublishVolumeRequest) { q.NodeId = strings.Repeat("n", 257) })
	b.attach("other mode", codes.AlreadyExists, func(q *spec.ControllerPublishVolumeRequest) { q.VolumeId, q.Readonly = b.v.id, true })
	b.attach("context", codes.InvalidArgument, func(q *spec.ControllerPublishVolumeRequest) { q.VolumeContext = map[string]string{"x": "y"} })
	b.stage("not attached", codes.FailedPrecondition, func(q *spec.NodeStageVolumeRequest) { q.VolumeId = b.loose.id })
	b.stage("no secret", codes.Unauthenticated, func(q *spec.NodeStageVolumeRequest) { q.Secrets = nil })
	b.stage("bad context", codes.InvalidArgument, func(q *spec.NodeStageVolumeRequest) { q.VolumeContext = map[string]string{"x": "y"} })
	b.stage("long publish context", codes.InvalidArgument, func(q *spec.NodeStageVolumeRequest) {
		q.PublishContext = map[string]string{"x": strings.Repeat("y", 5000)}
	})
	for n, s := range map[string]string{"short": "abc", "no hex": strings.Repeat("zz", 32), "33 bytes": strings.Repeat("k", 33), "66 digits": kek + "00", "empty": ""} {
		b.stage("kek "+n, codes.Unauthenticated, func(q *spec.NodeStageVolumeRequest) { q.Secrets = map[string]string{"kek": s} })
		if s != "" {
			b.stage("previous kek "+n, codes.Unauthenticated, func(q *spec.NodeStageVolumeRequest) { q.Secrets = map[string]string{"kek": kek, "kek-previous": s} })
		}
	}
	b.stage("other path", codes.AlreadyExists, func(q *spec.NodeStageVolumeRequest) { q.StagingTargetPath = b.r.path("kubelet/pods") })
}

// publications adds calls that are refused for their target.
func (b *badCalls) publications() {
	b.publish("no staging path", codes.FailedPrecondition, func(q *spec.NodePublishVolumeRequest) { q.StagingTargetPath = "" })
	b.publish("other staging path", codes.FailedPrecondition, func(q *spec.NodePublishVolumeRequest) { q.StagingTargetPath = b.r.path("kubelet/elsewhere") })
	b.publish("not attached", codes.FailedPrecondition, func(q *spec.NodePublishVolumeRequest) { q.VolumeId = b.loose.id })
	b.publish("target is staging", codes.InvalidArgument, func(q *spec.NodePublishVolumeRequest) { q.TargetPath = b.v.staging() })
	b.publish("target is a file", codes.InvalidArgument, func(q *spec.NodePublishVolumeRequest) { q.TargetPath = b.v.target("plain") })
	b.publish("parent is a file", codes.InvalidArgument, func(q *spec.NodePublishVolumeRequest) { q.TargetPath = b.v.target("plain/x") })
	b.publish("no parent", codes.InvalidArgument, func(q *spec.NodePublishVolumeRequest) { q.TargetPath = b.v.target("none/x") })
	b.publish("bad key", codes.Unauthenticated, func(q *spec.NodePublishVolumeRequest) { q.Secrets = map[string]string{"kek": "x"} })
}

// paths adds calls whose paths leave the kubelet's directory or contain links.
func (b *badCalls) paths() {
	badPaths := map[string]string{
		"relative": "pods/x", "root": "/", "the kubelet's directory": b.r.path("kubelet"), "elsewhere": "/etc/x", "beside": b.r.path("kubelet-x/y"), "dots": b.r.path("kubelet") + "/pods/../x",
		"dots out": b.r.path("kubelet") + "/../x", "linked parent": b.r.path("kubelet/link/x"), "link": b.v.target("etc"), "through a link": b.v.target("etc/passwd"),
		"control": b.v.target("a\x01"), "long": b.r.path("kubelet/") + strings.Repeat("/x", 2100), "long component": b.v.target(strings.Repeat("x", 300) + "/y"),
	}
	for n, p := range badPaths {
		b.publish("target "+n, codes.InvalidArgument, func(q *spec.NodePublishVolumeRequest) { q.TargetPath = p })
		b.stage("path "+n, codes.InvalidArgument, func(q *spec.NodeStageVolumeRequest) { q.StagingTargetPath = p })
		if n != "long component" {
			b.add("unpublish/path "+n, codes.InvalidArgument, func() error {
				_, err := b.r.node.NodeUnpublishVolume(b.r.ctx(), &spec.NodeUnpublishVolumeRequest{VolumeId: b.v.id, TargetPath: p})
				return err
			})
			b.add("unstage/path "+n, codes.InvalidArgument, func() error {
				_, err := b.r.node.NodeUnstageVolume(b.r.ctx(), &spec.NodeUnstageVolumeRequest{VolumeId: b.v.id, StagingTargetPath: p})
				return err
			})
		}
		b.add("stats/path "+n, map[bool]codes.Code{true: codes.InvalidArgument, false: codes.NotFound}[n == "control" || n == "long"], func() error {
			_, err := b.r.node.NodeGetVolumeStats(b.r.ctx(), &spec.NodeGetVolumeStatsRequest{VolumeId: b.v.id, VolumePath: p})
			return err
		})
	}
}

// capabilities adds calls with capabilities that no volume has.
func (b *badCalls) capabilities() {
	fsTyped := capability(multiWriter)
	fsTyped.GetMount().FsType = "ext4"
	group := capability(multiWriter)
	group.GetMount().VolumeMountGroup = "staff"
	badCaps := map[string]*spec.VolumeCapability{
		"block": b.block, "fs type": fsTyped, "mount flag": capability(multiWriter, "context=x"),
		"many readers": capability(spec.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY), "one of many writes": capability(spec.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER),
		"many writers": capability(spec.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER), "future mode": capability(99),
	}
	malformedCaps := map[string]*spec.VolumeCapability{
		"no cap": nil, "no mode": {AccessType: b.v.cap.AccessType}, "unknown mode": capability(spec.VolumeCapability_AccessMode_UNKNOWN), "no type": {AccessMode: b.v.cap.AccessMode}, "mount group": group,
	}
	for n, c := range badCaps {
		b.create(n, codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.VolumeCapabilities = []*spec.VolumeCapability{b.v.cap, c} })
	}
	for n, c := range badCaps {
		b.stage(n, codes.FailedPrecondition, func(q *spec.NodeStageVolumeRequest) { q.VolumeCapability = c })
		b.publish(n, codes.FailedPrecondition, func(q *spec.NodePublishVolumeRequest) { q.VolumeCapability = c })
		b.attach(n, codes.InvalidArgument, func(q *spec.ControllerPublishVolumeRequest) { q.VolumeCapability = c })
	}
	for n, c := range malformedCaps {
		b.stage(n, codes.InvalidArgument, func(q *spec.NodeStageVolumeRequest) { q.VolumeCapability = c })
		b.publish(n, codes.InvalidArgument, func(q *spec.NodePublishVolumeRequest) { q.VolumeCapability = c })
		b.attach(n, codes.InvalidArgument, func(q *spec.ControllerPublishVolumeRequest) { q.VolumeCapability = c })
		if c != nil {
			b.create(n, codes.InvalidArgument, func(q *spec.CreateVolumeRequest) { q.VolumeCapabilities = []*spec.VolumeCapability{c} })
		}
	}
}

// sizes adds expansions to impossible sizes.
func (b *badCalls) sizes() {
	b.expand("no range", codes.InvalidArgument, b.v.id, nil, nil)
	b.expand("empty range", codes.InvalidArgument, b.v.id, byteRange(0, 0), nil)
	b.expand("negative", codes.InvalidArgument, b.v.id, byteRange(-1, 0), nil)
	b.expand("below", codes.OutOfRange, b.v.id, byteRange(1, 4096), nil)
	b.expand("too big", codes.OutOfRange, b.v.id, byteRange(1<<62, 0), nil)
	b.expand("more than there is", codes.ResourceExhausted, b.v.id, byteRange(15<<40, 0), nil)
	b.expand("block", codes.InvalidArgument, b.v.id, byteRange(2*size, 0), b.block)
}

// ids adds every call that has an id, with malformed ids and ids of no volume.
func (b *badCalls) ids() {
	// Ids, in every call that has one.
	for n, c := range map[string]struct {
		id   string
		code codes.Code // the code if the volume must exist
		gone codes.Code // the code if it need not exist
	}{
		"none": {"", codes.InvalidArgument, codes.InvalidArgument}, "long": {longID, codes.InvalidArgument, codes.InvalidArgument},
		"control": {"a\nb\x01", codes.InvalidArgument, codes.InvalidArgument}, "unknown": {unknownID, codes.NotFound, codes.OK},
		"dots": {"../" + b.v.id, codes.NotFound, codes.OK}, "no id of ours": {"vol-1", codes.NotFound, codes.OK},
	} {
		b.attach("id "+n, c.code, func(q *spec.ControllerPublishVolumeRequest) { q.VolumeId = c.id })
		b.stage("id "+n, c.code, func(q *spec.NodeStageVolumeRequest) { q.VolumeId = c.id })
		b.publish("id "+n, c.code, func(q *spec.NodePublishVolumeRequest) { q.VolumeId = c.id })
		b.expand("id "+n, c.code, c.id, byteRange(2*size, 0), nil)
		add := func(name string, code codes.Code, call func() error) { b.add(name+"/id "+n, code, call) }
		add("delete", c.gone, func() error {
			_, err := b.r.ctrl.DeleteVolume(b.r.ctx(), &spec.DeleteVolumeRequest{VolumeId: c.id})
			return err
		})
		add("detach", c.gone, func() error {
			_, err := b.r.ctrl.ControllerUnpublishVolume(b.r.ctx(), &spec.ControllerUnpublishVolumeRequest{VolumeId: c.id, NodeId: node})
			return err
		})
		add("get", c.code, func() error {
			_, err := b.r.ctrl.ControllerGetVolume(b.r.ctx(), &spec.ControllerGetVolumeRequest{VolumeId: c.id})
			return err
		})
		add("controller health", c.code, func() error {
			_, err := b.r.ctrl.ControllerGetVolumeHealth(b.r.ctx(), &spec.ControllerGetVolumeHealthRequest{VolumeId: c.id})
			return err
		})
		add("validate", c.code, func() error {
			_, err := b.r.ctrl.ValidateVolumeCapabilities(b.r.ctx(), &spec.ValidateVolumeCapabilitiesRequest{VolumeId: c.id, VolumeCapabilities: []*spec.VolumeCapability{b.v.cap}})
			return err
		})
		add("node health", c.code, func() error {
			_, err := b.r.node.NodeGetVolumeHealth(b.r.ctx(), &spec.NodeGetVolumeHealthRequest{VolumeId: c.id})
			return err
		})
		add("stats", c.code, func() error {
			_, err := b.r.node.NodeGetVolumeStats(b.r.ctx(), &spec.NodeGetVolumeStatsRequest{VolumeId: c.id, VolumePath: b.v.target("a")})
			return err
		})
		add("node expand", c.code, func() error {
			_, err := b.r.node.NodeExpandVolume(b.r.ctx(), &spec.NodeExpandVolumeRequest{VolumeId: c.id, VolumePath: b.v.target("a")})
			return err
		})
		add("unpublish", c.gone, func() error {
			_, err := b.r.node.NodeUnpublishVolume(b.r.ctx(), &spec.NodeUnpublishVolumeRequest{VolumeId: c.id, TargetPath: b.v.target("never")})
			return err
		})
		add("unstage", c.gone, func() error {
			_, err := b.r.node.NodeUnstageVolume(b.r.ctx(), &spec.NodeUnstageVolumeRequest{VolumeId: c.id, StagingTargetPath: b.r.path("kubelet/never")})
			return err
		})
	}
}

// others adds calls that are refused for other reasons.
func (b *badCalls) others() {
	b.add("unpublish/another volume's target", codes.FailedPrecondition, func() error {
		_, err := b.r.node.NodeUnpublishVolume(b.r.ctx(), &spec.NodeUnpublishVolumeRequest{VolumeId: b.loose.id, TargetPath: b.v.target("a")})
		return err
	})
	b.add("list/bad token", codes.Aborted, func() error {
		_, err := b.r.ctrl.ListVolumes(b.r.ctx(), &spec.ListVolumesRequest{StartingToken: "x"})
		return err
	})
	b.add("list/negative", codes.InvalidArgument, func() error {
		_, err := b.r.ctrl.ListVolumes(b.r.ctx(), &spec.ListVolumesRequest{MaxEntries: -1})
		return err
	})
	b.add("modify", codes.Unimplemented, func() error {
		_, err := b.r.ctrl.ControllerModifyVolume(b.r.ctx(), &spec.ControllerModifyVolumeRequest{VolumeId: b.v.id})
		return err
	})
}

// TestBadInput: each call returns its code and changes nothing, when called twice.
func TestBadInput(t *testing.T) {
	r := newRig(t)
	v := r.create("pvc-1", multiWriter).up()
	wantCode(t, v.publishTo("a"), codes.OK)
	loose := r.create("pvc-2", multiWriter)
	if err := os.Symlink(r.path("kubelet/pods"), r.path("kubelet/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", v.target("etc")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(v.target("plain"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	b := &badCalls{t: t, r: r, v: v, loose: loose, all: map[string]badCall{},
		block: &spec.VolumeCapability{AccessMode: v.cap.AccessMode, AccessType: &spec.VolumeCapability_Block{Block: &spec.VolumeCapability_BlockVolume{}}}}
	for _, add := range []func(){b.creates, b.copies, b.snapshots, b.attachments, b.publications, b.paths, b.capabilities, b.sizes, b.ids, b.others} {
		add()
	}
	before := r.world()
	for name, c := range b.all {
		for range 2 {
			if err := c.call(); status.Code(err) != c.code {
				t.Errorf("%s: got %v (%v), want %v", name, status.Code(err), err, c.code)
			}
		}
		if after := r.world(); after != before {
			t.Fatalf("%s changed something: before\n%s\nafter\n%s", name, before, after)
		}
	}
	t.Logf("%d calls", len(b.all))
	v.drop("a")
	loose.drop()
}
