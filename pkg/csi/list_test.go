package csi_test

import (
	"fmt"
	"os"
	"testing"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/csi"
)

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
	wantIll(t, r, all)
	for _, v := range all {
		v.drop()
	}
}

// wantIll deletes two images, and wants the health calls (alpha in the spec, called with the test's
// own client) to report them.
func wantIll(t *testing.T, r *rig, all []*vol) {
	t.Helper()
	for _, i := range []int{1, 3} {
		if err := os.Remove(r.path("local/images/" + all[i].id + ".img")); err != nil {
			t.Fatal(err)
		}
	}
	h := must[*spec.ControllerGetVolumeHealthResponse](t)(r.ctrl.ControllerGetVolumeHealth(r.ctx(), &spec.ControllerGetVolumeHealthRequest{VolumeId: all[1].id}))
	if s := h.GetVolumeHealth().GetHealthStatuses(); len(s) != 2 || s[0].GetStatus() != spec.VolumeHealthErrorType_DATA_LOSS || s[1].GetStatus() != spec.VolumeHealthErrorType_INACCESSIBLE {
		t.Fatal(s)
	}
	token, ill := "", map[string]bool{}
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
}

// TestListVolumeHealthFails: a volume that is not in the list counts as healthy. So the call fails if
// the backend cannot tell the health of a volume. A volume that was deleted in the meantime is
// omitted.
func TestListVolumeHealthFails(t *testing.T) {
	back := &tunable{}
	r := newRigWith(t, csi.Options{Controller: back})
	r.create("pvc", writer)
	for err, want := range map[error]codes.Code{backend.ErrUnavailable: codes.Unavailable, backend.ErrQuota: codes.ResourceExhausted, backend.ErrNotFound: codes.OK} {
		back.mu.Lock()
		back.health = fmt.Errorf("%w: injected", err)
		back.mu.Unlock()
		_, err := r.ctrl.ControllerListVolumeHealth(r.ctx(), &spec.ControllerListVolumeHealthRequest{})
		wantCode(t, err, want)
	}
}
