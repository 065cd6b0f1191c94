package csi

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/backend"
)

type controllerServer struct {
	csi.UnimplementedControllerServer
	backend   backend.Controller
	snapshots backend.Snapshotter // nil if the backend cannot make snapshots
	tunable   backend.Tunable     // nil if the backend has no parameters of its own
	meter     backend.Meter       // nil if the backend does not know its free capacity
	self      *selfAttach         // nil if an attacher and a resizer call this service
	hook      func(step string)
}

var controllerCapabilities = []csi.ControllerServiceCapability_RPC_Type{
	csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
	csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
	csi.ControllerServiceCapability_RPC_GET_VOLUME,
	csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	csi.ControllerServiceCapability_RPC_GET_VOLUME_HEALTH,
	csi.ControllerServiceCapability_RPC_LIST_VOLUME_HEALTH,
}

// attachCapabilities are the capabilities of a controller that attaches and grows volumes. With
// self-attach, the node service does this instead.
var attachCapabilities = []csi.ControllerServiceCapability_RPC_Type{
	csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
	csi.ControllerServiceCapability_RPC_PUBLISH_READONLY,
	csi.ControllerServiceCapability_RPC_LIST_VOLUMES_PUBLISHED_NODES,
	csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
}

// snapshotCapabilities are the additional capabilities if the backend is a backend.Snapshotter.
var snapshotCapabilities = []csi.ControllerServiceCapability_RPC_Type{
	csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
	csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
	csi.ControllerServiceCapability_RPC_GET_SNAPSHOT,
	csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
}

func (s *controllerServer) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	resp := &csi.ControllerGetCapabilitiesResponse{}
	caps := controllerCapabilities
	if s.self == nil {
		caps = slices.Concat(caps, attachCapabilities)
	}
	if s.snapshots != nil {
		caps = slices.Concat(caps, snapshotCapabilities)
	}
	if s.tunable != nil {
		caps = append(slices.Clone(caps), csi.ControllerServiceCapability_RPC_MODIFY_VOLUME)
	}
	if s.meter != nil {
		caps = append(slices.Clone(caps), csi.ControllerServiceCapability_RPC_GET_CAPACITY)
	}
	for _, t := range caps {
		resp.Capabilities = append(resp.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: t}}})
	}
	return resp, nil
}

func volume(v backend.Volume) *csi.Volume {
	vol := &csi.Volume{VolumeId: v.ID, CapacityBytes: capacityOf(v.SizeBytes, v.Parameters), VolumeContext: volumeContext(v)}
	if s := v.Source; s != nil && s.Snapshot != "" {
		vol.ContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: s.Snapshot}}}
	} else if s != nil {
		vol.ContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: s.Volume}}}
	}
	for _, t := range v.Topology {
		vol.AccessibleTopology = append(vol.AccessibleTopology, &csi.Topology{Segments: t})
	}
	return vol
}

// volumeContext returns the context that the CO passes to the node.
func volumeContext(v backend.Volume) map[string]string {
	if v.Origin == "" {
		return v.Parameters
	}
	m := maps.Clone(v.Parameters)
	if m == nil {
		m = map[string]string{}
	}
	m[contextKeyVolume] = v.Origin
	return m
}

func publishedNodes(v backend.Volume) []string {
	if v.Attachment == nil {
		return nil
	}
	return []string{v.Attachment.Node}
}

func (s *controllerServer) ValidateVolumeCapabilities(ctx context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if err := checkID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	if len(r.GetVolumeCapabilities()) == 0 {
		return nil, fmt.Errorf("%w: volume_capabilities are missing", errInvalid)
	}
	v, err := s.backend.Get(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	no := func(err error) (*csi.ValidateVolumeCapabilitiesResponse, error) {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	for _, c := range r.GetVolumeCapabilities() {
		if err := checkCapability(c, errInvalid); err != nil {
			return no(err)
		}
	}
	if len(r.GetMutableParameters()) > 0 {
		return no(fmt.Errorf("%w: mutable_parameters are not supported by this backend", errInvalid))
	}
	for _, c := range r.GetVolumeCapabilities() {
		if err := checkAccessType(c, v.Parameters, errInvalid); err != nil {
			return no(err)
		}
	}
	ours, _, err := parseContext(r.GetVolumeContext())
	if err != nil {
		return no(err)
	}
	if len(r.GetVolumeContext()) > 0 && !maps.Equal(ours, volumeContext(v)) {
		return no(fmt.Errorf("%w: volume_context differs from the volume's", errInvalid))
	}
	asked, _ := s.splitParameters(r.GetParameters())
	if ours, _, err = parse("parameters", asked, false, false); err != nil {
		return no(err)
	}
	given := maps.Clone(v.Parameters)
	delete(given, contextAccessType)
	if len(asked) > 0 && !maps.Equal(ours, given) {
		return no(fmt.Errorf("%w: parameters differ from the volume's", errInvalid))
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: r.GetVolumeContext(), VolumeCapabilities: r.GetVolumeCapabilities(), Parameters: r.GetParameters()}}, nil
}

func (s *controllerServer) ListVolumes(ctx context.Context, r *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	if r.GetMaxEntries() < 0 {
		return nil, fmt.Errorf("%w: max_entries is negative", errInvalid)
	}
	vols, next, err := s.backend.List(ctx, r.GetStartingToken(), int(r.GetMaxEntries()))
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	resp := &csi.ListVolumesResponse{NextToken: next}
	for _, v := range vols {
		resp.Entries = append(resp.Entries, &csi.ListVolumesResponse_Entry{Volume: volume(v),
			Status: &csi.ListVolumesResponse_VolumeStatus{PublishedNodeIds: publishedNodes(v)}})
	}
	return resp, nil
}

func (s *controllerServer) ControllerGetVolume(ctx context.Context, r *csi.ControllerGetVolumeRequest) (*csi.ControllerGetVolumeResponse, error) {
	if err := checkID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	v, err := s.backend.Get(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeResponse{Volume: volume(v),
		Status: &csi.ControllerGetVolumeResponse_VolumeStatus{PublishedNodeIds: publishedNodes(v)}}, nil
}
