package csi_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	spec "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/backend/local"
	"github.com/sealvol/sealvol/pkg/csi"
)

func (r *rig) attached(id string) bool {
	r.t.Helper()
	v, err := r.back.Get(r.ctx(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return v.Attachment != nil
}

func controllerCaps(t *testing.T, c spec.ControllerClient) (list []spec.ControllerServiceCapability_RPC_Type) {
	t.Helper()
	resp := must[*spec.ControllerGetCapabilitiesResponse](t)(c.ControllerGetCapabilities(t.Context(), &spec.ControllerGetCapabilitiesRequest{}))
	for _, c := range resp.GetCapabilities() {
		list = append(list, c.GetRpc().GetType())
	}
	return list
}

// TestSelfAttachLife: a volume's life without attacher and resizer, with each call made twice.
func TestSelfAttachLife(t *testing.T) {
	for name, c := range map[string]*spec.VolumeCapability{"file system": capability(multiWriter), "block": blockCapability(writer)} {
		t.Run(name, func(t *testing.T) {
			r := newRigWith(t, csi.Options{SelfAttach: true})
			v := r.createWith("pvc-1", c)
			for range 2 {
				wantCode(t, v.stage(), codes.OK)
				wantCode(t, v.publishTo("a"), codes.OK)
			}
			if !r.attached(v.id) {
				t.Fatal("staged, but not attached")
			}
			_, err := r.ctrl.DeleteVolume(r.ctx(), &spec.DeleteVolumeRequest{VolumeId: v.id})
			wantCode(t, err, codes.FailedPrecondition)
			for range 2 {
				n, err := v.nodeExpand(c, v.target("a"), 3*size)
				if err != nil || n != 3*size {
					t.Fatal(n, err)
				}
			}
			_, err = v.nodeExpand(c, v.target("a"), 1<<60)
			wantCode(t, err, codes.OutOfRange)
			for range 2 {
				wantCode(t, v.unpublish("a"), codes.OK)
			}
			for range 2 {
				wantCode(t, v.unstage(), codes.OK)
			}
			if r.attached(v.id) {
				t.Fatal("unstaged, but attached")
			}
			for range 2 {
				_, err = r.ctrl.DeleteVolume(r.ctx(), &spec.DeleteVolumeRequest{VolumeId: v.id})
				wantCode(t, err, codes.OK)
			}
		})
	}
}

// TestSelfAttachFailedStage: a stage that mounts nothing leaves nothing attached, and the volume
// can be deleted.
func TestSelfAttachFailedStage(t *testing.T) {
	r := newRigWith(t, csi.Options{SelfAttach: true})
	v := r.create("pvc-1", writer)
	wantCode(t, v.stage(), codes.OK)
	wantCode(t, v.unstage(), codes.OK)
	for name, secrets := range map[string]map[string]string{"no key": {}, "wrong key": {"kek": strings.Repeat("f", 64)}} {
		v.secrets = secrets
		wantCode(t, v.stage(), codes.Unauthenticated)
		if r.attached(v.id) {
			t.Fatalf("%s: attached", name)
		}
	}
	v.cap = blockCapability(writer)
	wantCode(t, v.stage(), codes.FailedPrecondition)
	if r.attached(v.id) {
		t.Fatal("as a block device: attached")
	}
	v.id = "lv-" + strings.Repeat("0", 32) + "-" + strings.Repeat("0", 16)
	v.cap = capability(writer)
	wantCode(t, v.stage(), codes.NotFound)
}

// TestSelfAttachLeftover: an attachment that a crash left is staged differently, unstaged, or
// deleted.
func TestSelfAttachLeftover(t *testing.T) {
	r := newRigWith(t, csi.Options{SelfAttach: true})
	v := r.create("pvc-1", writer)
	leave := func() {
		t.Helper()
		if _, err := r.back.Attach(r.ctx(), v.id, node, false); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, v.stage(), codes.OK)
	wantCode(t, v.unstage(), codes.OK)
	leave()
	v.cap = capability(reader)
	wantCode(t, v.stage(), codes.OK)
	v.cap = capability(writer)
	wantCode(t, v.stage(), codes.AlreadyExists) // mounted, and read-only
	wantCode(t, v.unstage(), codes.OK)
	leave()
	wantCode(t, v.unstage(), codes.OK)
	if r.attached(v.id) {
		t.Fatal("attached")
	}
	leave()
	r.stopMounter()
	_, err := r.ctrl.DeleteVolume(r.ctx(), &spec.DeleteVolumeRequest{VolumeId: v.id})
	wantCode(t, err, codes.FailedPrecondition) // no call knows about it any more
}

func TestSelfAttachLeftoverDeleted(t *testing.T) {
	r := newRigWith(t, csi.Options{SelfAttach: true})
	v := r.create("pvc-1", writer)
	if _, err := r.back.Attach(r.ctx(), v.id, node, false); err != nil {
		t.Fatal(err)
	}
	_, err := r.ctrl.DeleteVolume(r.ctx(), &spec.DeleteVolumeRequest{VolumeId: v.id})
	wantCode(t, err, codes.OK)
}

// TestSelfAttachController: the controller does not advertise that it attaches or grows volumes,
// and does not. If the source is on another node and the CO chose this one, the CO tries other
// nodes.
func TestSelfAttachController(t *testing.T) {
	r := newRigWith(t, csi.Options{SelfAttach: true})
	for _, c := range controllerCaps(t, r.ctrl) {
		switch c {
		case spec.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME, spec.ControllerServiceCapability_RPC_PUBLISH_READONLY,
			spec.ControllerServiceCapability_RPC_LIST_VOLUMES_PUBLISHED_NODES, spec.ControllerServiceCapability_RPC_EXPAND_VOLUME:
			t.Error("advertises", c)
		}
	}
	v := r.create("pvc-1", writer)
	wantCode(t, v.attach(false), codes.Unimplemented)
	_, err := r.ctrl.ControllerUnpublishVolume(r.ctx(), &spec.ControllerUnpublishVolumeRequest{VolumeId: v.id, NodeId: node})
	wantCode(t, err, codes.Unimplemented)
	_, err = r.ctrl.ControllerExpandVolume(r.ctx(), &spec.ControllerExpandVolumeRequest{VolumeId: v.id, CapacityRange: &spec.CapacityRange{RequiredBytes: 2 * size}})
	wantCode(t, err, codes.Unimplemented)
	copyOf := &spec.CreateVolumeRequest{Name: "copy", VolumeCapabilities: []*spec.VolumeCapability{v.cap}, VolumeContentSource: &spec.VolumeContentSource{
		Type: &spec.VolumeContentSource_Snapshot{Snapshot: &spec.VolumeContentSource_SnapshotSource{SnapshotId: "ls-" + strings.Repeat("0", 32) + "-" + strings.Repeat("0", 16)}}}}
	_, err = r.ctrl.CreateVolume(r.ctx(), copyOf)
	wantCode(t, err, codes.NotFound)
	copyOf.AccessibilityRequirements = &spec.TopologyRequirement{Requisite: []*spec.Topology{{Segments: map[string]string{local.TopologyKey: node}}}}
	_, err = r.ctrl.CreateVolume(r.ctx(), copyOf)
	wantCode(t, err, codes.ResourceExhausted)
}

// TestAnnounce: what csi-resizer asks before it only notifies the kubelets.
func TestAnnounce(t *testing.T) {
	endpoint := "unix://" + t.TempDir() + "/csi.sock"
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- csi.Serve(ctx, csi.Options{Endpoint: endpoint, Version: "test", Announce: true}) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	conn := must[*grpc.ClientConn](t)(grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true))))
	defer func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}()
	id, ctrl, nodes := spec.NewIdentityClient(conn), spec.NewControllerClient(conn), spec.NewNodeClient(conn)
	if p := must[*spec.ProbeResponse](t)(id.Probe(ctx, &spec.ProbeRequest{})); !p.GetReady().GetValue() {
		t.Error("not ready")
	}
	plugin := must[*spec.GetPluginCapabilitiesResponse](t)(id.GetPluginCapabilities(ctx, &spec.GetPluginCapabilitiesRequest{}))
	if !slices.ContainsFunc(plugin.GetCapabilities(), func(c *spec.PluginCapability) bool {
		return c.GetService().GetType() == spec.PluginCapability_Service_CONTROLLER_SERVICE
	}) {
		t.Error("no controller service")
	}
	if c := controllerCaps(t, ctrl); len(c) > 0 {
		t.Error("the controller can ", c)
	}
	caps := must[*spec.NodeGetCapabilitiesResponse](t)(nodes.NodeGetCapabilities(ctx, &spec.NodeGetCapabilitiesRequest{}))
	if !slices.ContainsFunc(caps.GetCapabilities(), func(c *spec.NodeServiceCapability) bool {
		return c.GetRpc().GetType() == spec.NodeServiceCapability_RPC_EXPAND_VOLUME
	}) {
		t.Error("the node cannot expand")
	}
	_, err := ctrl.CreateVolume(ctx, &spec.CreateVolumeRequest{Name: "x"})
	wantCode(t, err, codes.Unimplemented)
	_, err = nodes.NodeStageVolume(ctx, &spec.NodeStageVolumeRequest{VolumeId: "x"})
	wantCode(t, err, codes.Unimplemented)
}

func TestSelfAttachNeedsAll(t *testing.T) {
	if _, err := csi.NewServer(csi.Options{SelfAttach: true, Controller: &local.Backend{}}); err == nil {
		t.Error("accepted without a node service")
	}
}
