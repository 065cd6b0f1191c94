package csi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/mounter"
)

type controllerServer struct {
	csi.UnimplementedControllerServer
	backend   backend.Controller
	snapshots backend.Snapshotter // nil: the backend has none
	tunable   backend.Tunable     // nil: the backend has no parameters of its own
	meter     backend.Meter       // nil: the backend does not know how much room there is
	self      *selfAttach         // nil: attached and grown by calls of this service
	hook      func(step string)
}

// publishReadOnly in a publish_context tells the node that the attachment is read-only.
const publishReadOnly = "readOnly"

var controllerCapabilities = []csi.ControllerServiceCapability_RPC_Type{
	csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
	csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
	csi.ControllerServiceCapability_RPC_GET_VOLUME,
	csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	csi.ControllerServiceCapability_RPC_GET_VOLUME_HEALTH,
	csi.ControllerServiceCapability_RPC_LIST_VOLUME_HEALTH,
}

// attachCapabilities are those of a controller that attaches and grows volumes; with self-attach the node does.
var attachCapabilities = []csi.ControllerServiceCapability_RPC_Type{
	csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
	csi.ControllerServiceCapability_RPC_PUBLISH_READONLY,
	csi.ControllerServiceCapability_RPC_LIST_VOLUMES_PUBLISHED_NODES,
	csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
}

// snapshotCapabilities are those of a backend that is a backend.Snapshotter.
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

func (s *controllerServer) CreateVolume(ctx context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	spec, err := s.createSpec(r)
	if err != nil {
		return nil, err
	}
	if r.GetVolumeContentSource() != nil {
		if spec.Source, err = s.contentSource(ctx, r, spec.Parameters); err != nil {
			return nil, err
		}
	}
	s.hook("create")
	v, err := s.backend.Create(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("create volume: %w", s.elsewhere(r, err))
	}
	s.hook("created")
	return &csi.CreateVolumeResponse{Volume: volume(v)}, nil
}

// elsewhere makes a source that this node does not have one that cannot be reached from here, if the CO has chosen the place: then it looks for
// another one. What it would do with "not found" is give up.
func (s *controllerServer) elsewhere(r *csi.CreateVolumeRequest, err error) error {
	missing := errors.Is(err, backend.ErrSnapshotNotFound) || errors.Is(err, backend.ErrNotFound)
	if s.self == nil || !missing || len(r.GetAccessibilityRequirements().GetRequisite()) == 0 {
		return err
	}
	return fmt.Errorf("%w: the source is not on this node", backend.ErrTopology)
}

func (s *controllerServer) createSpec(r *csi.CreateVolumeRequest) (backend.Spec, error) {
	if err := checkString("name", r.GetName(), maxStringBytes); err != nil {
		return backend.Spec{}, err
	}
	if err := checkCapabilities(r.GetVolumeCapabilities()); err != nil {
		return backend.Spec{}, err
	}
	if err := checkRange(r.GetCapacityRange()); err != nil {
		return backend.Spec{}, err
	}
	mutable, err := s.mutableParameters(r.GetMutableParameters())
	if err != nil {
		return backend.Spec{}, err
	}
	ours, class := s.splitParameters(r.GetParameters())
	params, _, err := parseParameters(ours)
	if err != nil {
		return backend.Spec{}, err
	}
	block, err := oneAccessType(r.GetVolumeCapabilities())
	if err != nil {
		return backend.Spec{}, err
	}
	required, limit := r.GetCapacityRange().GetRequiredBytes(), r.GetCapacityRange().GetLimitBytes()
	if block {
		if params == nil {
			params = map[string]string{}
		}
		params[contextAccessType] = accessBlock
		if required, limit, err = rawRange(required, limit); err != nil {
			return backend.Spec{}, err
		}
	}
	return backend.Spec{Name: r.GetName(), Parameters: params, Class: class, Mutable: mutable, For: purposeOf(r.GetParameters()), RequiredBytes: required, LimitBytes: limit,
		Requisite: segments(r.GetAccessibilityRequirements().GetRequisite()),
		Preferred: segments(r.GetAccessibilityRequirements().GetPreferred())}, nil
}

func segments(list []*csi.Topology) []backend.Segments {
	var s []backend.Segments
	for _, t := range list {
		s = append(s, t.GetSegments())
	}
	return s
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

// volumeContext is what the CO hands on to the node.
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

// capacityOf is what a volume's user gets of its device: the spec wants the size that was asked for of raw block devices.
func capacityOf(deviceBytes int64, params map[string]string) int64 {
	if isBlockContext(params) {
		return mounter.RawBytes(deviceBytes)
	}
	return deviceBytes
}

// maxRawBytes keeps sums from overflowing; no backend comes near.
const maxRawBytes = 1 << 61

// defaultRawBytes is the size of a raw block device of which none is asked for.
const defaultRawBytes = 1 << 30

// rawRange translates sizes of a raw block device into sizes of the volume's device.
func rawRange(required, limit int64) (requiredDevice, limitDevice int64, err error) {
	if required > maxRawBytes || limit > 0 && limit < mounter.RawAlign {
		return 0, 0, fmt.Errorf("%w: required %d, limit %d bytes", errOutOfRange, required, limit)
	}
	if required == 0 {
		required = defaultRawBytes
		if limit > 0 {
			required = min(required, limit/mounter.RawAlign*mounter.RawAlign)
		}
	}
	if limit > 0 {
		limitDevice = mounter.RawDeviceBytes(min(limit, maxRawBytes)/mounter.RawAlign*mounter.RawAlign+mounter.RawAlign) - mounter.RawAlign
	}
	if requiredDevice = mounter.RawDeviceBytes(required); limit > 0 && requiredDevice > limitDevice {
		return 0, 0, fmt.Errorf("%w: no multiple of %d bytes lies between %d and %d", errOutOfRange, mounter.RawAlign, required, limit)
	}
	return requiredDevice, limitDevice, nil
}

func publishedNodes(v backend.Volume) []string {
	if v.Attachment == nil {
		return nil
	}
	return []string{v.Attachment.Node}
}

func (s *controllerServer) DeleteVolume(ctx context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if err := checkID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	s.hook("delete")
	err := s.backend.Delete(ctx, r.GetVolumeId())
	if errors.Is(err, backend.ErrBusy) {
		err = s.self.delete(ctx, r.GetVolumeId(), err)
	}
	if err != nil {
		return nil, fmt.Errorf("delete volume: %w", err)
	}
	s.hook("deleted")
	return &csi.DeleteVolumeResponse{}, nil
}

func (s *controllerServer) ControllerPublishVolume(ctx context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	if s.self != nil {
		return s.UnimplementedControllerServer.ControllerPublishVolume(ctx, r)
	}
	if err := checkID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	if err := checkString("node_id", r.GetNodeId(), maxNodeIDBytes); err != nil {
		return nil, err
	}
	if err := checkCapability(r.GetVolumeCapability(), errInvalid); err != nil {
		return nil, err
	}
	if _, _, err := parseContext(r.GetVolumeContext()); err != nil {
		return nil, err
	}
	v, err := s.backend.Get(ctx, r.GetVolumeId())
	if err != nil {
		return nil, fmt.Errorf("publish volume: %w", err)
	}
	if err := checkAccessType(r.GetVolumeCapability(), v.Parameters, errInvalid); err != nil {
		return nil, err
	}
	readOnly := r.GetReadonly() || isReader(r.GetVolumeCapability())
	s.hook("attach")
	c, err := s.backend.Attach(ctx, r.GetVolumeId(), r.GetNodeId(), readOnly)
	if err != nil {
		return nil, fmt.Errorf("publish volume: %w", err)
	}
	s.hook("attached")
	if readOnly {
		c = maps.Clone(c)
		if c == nil {
			c = map[string]string{}
		}
		c[publishReadOnly] = "true"
	}
	return &csi.ControllerPublishVolumeResponse{PublishContext: c}, nil
}

func (s *controllerServer) ControllerUnpublishVolume(ctx context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	if s.self != nil {
		return s.UnimplementedControllerServer.ControllerUnpublishVolume(ctx, r)
	}
	if err := checkID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	if r.GetNodeId() != "" {
		if err := checkString("node_id", r.GetNodeId(), maxNodeIDBytes); err != nil {
			return nil, err
		}
	}
	s.hook("detach")
	if err := s.backend.Detach(ctx, r.GetVolumeId(), r.GetNodeId()); err != nil {
		return nil, fmt.Errorf("unpublish volume: %w", err)
	}
	s.hook("detached")
	return &csi.ControllerUnpublishVolumeResponse{}, nil
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
	if err := checkCapabilities(r.GetVolumeCapabilities()); err != nil {
		return no(err)
	}
	if len(r.GetMutableParameters()) > 0 {
		return no(fmt.Errorf("%w: mutable_parameters are not supported", errInvalid))
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

func (s *controllerServer) GetCapacity(ctx context.Context, r *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	if s.meter == nil {
		return s.UnimplementedControllerServer.GetCapacity(ctx, r)
	}
	ours, _ := s.splitParameters(r.GetParameters())
	if _, _, err := parseParameters(ours); err != nil {
		return nil, err
	}
	block := false
	if c := r.GetVolumeCapabilities(); len(c) > 0 {
		var err error
		if block, err = oneAccessType(c); err != nil || !supported(c) {
			return &csi.GetCapacityResponse{}, nil //nolint:nilerr // no room at all for what we do not make
		}
	}
	var where backend.Segments
	if t := r.GetAccessibleTopology(); t != nil {
		where = t.GetSegments()
		if where == nil {
			where = backend.Segments{}
		}
	}
	c, err := s.meter.Capacity(ctx, where)
	if err != nil {
		return nil, fmt.Errorf("get capacity: %w", err)
	}
	if block {
		c.AvailableBytes, c.MaxVolumeBytes = mounter.RawBytes(c.AvailableBytes), mounter.RawBytes(c.MaxVolumeBytes)
		c.MinVolumeBytes = max(mounter.RawBytes(c.MinVolumeBytes), mounter.RawAlign)
	}
	return &csi.GetCapacityResponse{AvailableCapacity: c.AvailableBytes,
		MaximumVolumeSize: wrapperspb.Int64(c.MaxVolumeBytes), MinimumVolumeSize: wrapperspb.Int64(c.MinVolumeBytes)}, nil
}

func (s *controllerServer) ControllerExpandVolume(ctx context.Context, r *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	if s.self != nil {
		return s.UnimplementedControllerServer.ControllerExpandVolume(ctx, r)
	}
	if err := checkID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	if r.GetCapacityRange() == nil {
		return nil, fmt.Errorf("%w: capacity_range is missing", errInvalid)
	}
	if err := checkRange(r.GetCapacityRange()); err != nil {
		return nil, err
	}
	if c := r.GetVolumeCapability(); c != nil {
		if err := checkCapability(c, errInvalid); err != nil {
			return nil, err
		}
	}
	v, err := s.backend.Get(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if c := r.GetVolumeCapability(); c != nil {
		if err := checkAccessType(c, v.Parameters, errInvalid); err != nil {
			return nil, err
		}
	}
	s.hook("expand")
	n, err := expand(ctx, s.backend, v, r.GetCapacityRange().GetRequiredBytes(), r.GetCapacityRange().GetLimitBytes())
	if err != nil {
		return nil, err
	}
	s.hook("expanded")
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: capacityOf(n, v.Parameters), NodeExpansionRequired: true}, nil
}

// expand grows a volume's device so that its user gets a size, and returns the device's.
func expand(ctx context.Context, b backend.Controller, v backend.Volume, required, limit int64) (n int64, err error) {
	if isBlockContext(v.Parameters) && (required > 0 || limit > 0) {
		if required, limit, err = rawRange(required, limit); err != nil {
			return 0, err
		}
	}
	if n, err = b.Expand(ctx, v.ID, required, limit); err != nil {
		return 0, fmt.Errorf("expand volume: %w", err)
	}
	return n, nil
}

func (s *controllerServer) ControllerGetVolumeHealth(ctx context.Context, r *csi.ControllerGetVolumeHealthRequest) (*csi.ControllerGetVolumeHealthResponse, error) {
	if err := checkID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	conds, err := s.backend.Health(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeHealthResponse{VolumeHealth: health(r.GetVolumeId(), conds)}, nil
}

// healthPage is how many volumes are looked at between two looks at the context.
const healthPage = 100

// ControllerListVolumeHealth lists volumes with adverse conditions. A token is a volume list's.
func (s *controllerServer) ControllerListVolumeHealth(ctx context.Context, r *csi.ControllerListVolumeHealthRequest) (*csi.ControllerListVolumeHealthResponse, error) {
	if r.GetMaxEntries() < 0 {
		return nil, fmt.Errorf("%w: max_entries is negative", errInvalid)
	}
	resp := &csi.ControllerListVolumeHealthResponse{}
	page, token := healthPage, r.GetStartingToken()
	if r.GetMaxEntries() > 0 {
		page = min(page, int(r.GetMaxEntries())) // so that one page never brings more than fit, and its token can be given out
	}
	for {
		vols, next, err := s.backend.List(ctx, token, page)
		if err != nil {
			return nil, fmt.Errorf("list volume health: %w", err)
		}
		for _, v := range vols {
			conds, err := s.backend.Health(ctx, v.ID)
			if err != nil || len(conds) == 0 {
				continue // deleted meanwhile, or fine
			}
			resp.Entries = append(resp.Entries, health(v.ID, conds))
		}
		token = next
		if token == "" {
			return resp, nil
		}
		if m := int(r.GetMaxEntries()); m > 0 && len(resp.Entries)+page > m {
			if len(resp.Entries) > 0 {
				resp.NextToken = token
				return resp, nil
			}
		}
	}
}

func health(id string, conds []backend.Condition) *csi.VolumeHealth {
	h := &csi.VolumeHealth{VolumeId: id}
	seen := map[string]bool{}
	add := func(status csi.VolumeHealthErrorType, c backend.Condition) {
		if key := fmt.Sprint(status, c.Reason); !seen[key] {
			seen[key] = true
			h.HealthStatuses = append(h.HealthStatuses, &csi.VolumeHealth_VolumeHealthEntry{Status: status, Reason: c.Reason, Message: c.Message})
		}
	}
	for _, c := range conds {
		if c.Lost {
			add(csi.VolumeHealthErrorType_DATA_LOSS, c)
		}
		if c.Inaccessible {
			add(csi.VolumeHealthErrorType_INACCESSIBLE, c)
		}
		if !c.Lost && !c.Inaccessible {
			add(csi.VolumeHealthErrorType_DEGRADED, c)
		}
	}
	return h
}
