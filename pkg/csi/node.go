package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/mounter"
)

type nodeServer struct {
	csi.UnimplementedNodeServer
	backend backend.Node
	mounter Mounter
	self    *selfAttach // nil if an attacher and a resizer call the controller
	agent   Agent
	root    *root
	hook    func(step string)
	groups  groupWalks
	formats formatKeepers
	log     *slog.Logger
}

var nodeCapabilities = []csi.NodeServiceCapability_RPC_Type{
	csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
	csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
	csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
	csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
	csi.NodeServiceCapability_RPC_GET_STORAGE_HEALTH,
	csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP,
}

func (s *nodeServer) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	resp := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range nodeCapabilities {
		resp.Capabilities = append(resp.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}}})
	}
	return resp, nil
}

func (s *nodeServer) NodeGetInfo(ctx context.Context, _ *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	i, err := s.backend.Info(ctx)
	if err != nil {
		return nil, err
	}
	return &csi.NodeGetInfoResponse{NodeId: i.ID, MaxVolumesPerNode: i.MaxVolumes, AccessibleTopology: &csi.Topology{Segments: i.Topology}}, nil
}

// mountedAt checks that a volume is mounted at a path, without opening the path. Otherwise it
// returns errNotFound.
func (s *nodeServer) mountedAt(id, path string) error {
	mounts, err := mountsOf(id)
	if err != nil {
		return err
	}
	at := s.root.inMountinfo(path)
	for _, m := range mounts {
		if m.Mountpoint == at {
			return nil
		}
	}
	return fmt.Errorf("%w: the volume is not mounted at volume_path", errNotFound)
}

func (s *nodeServer) NodeGetVolumeStats(ctx context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	if err := checkID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	if err := checkString("volume_path", r.GetVolumePath(), maxPathBytes); err != nil {
		return nil, err
	}
	if err := s.mountedAt(r.GetVolumeId(), r.GetVolumePath()); err != nil {
		return nil, err
	}
	st, err := s.mounter.Stats(ctx, r.GetVolumeId())
	if err != nil {
		return nil, fmt.Errorf("get statistics: %w", err)
	}
	if h, err := s.mounter.Health(ctx, r.GetVolumeId()); err != nil {
		return nil, fmt.Errorf("get statistics: %w", err)
	} else if h.BlockBytes > 0 {
		return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: h.BlockBytes}}}, nil
	}
	resp := &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: st.TotalBytes, Used: st.UsedBytes, Available: st.AvailableBytes}}}
	if st.TotalInodes > 0 {
		resp.Usage = append(resp.Usage, &csi.VolumeUsage{Unit: csi.VolumeUsage_INODES, Total: st.TotalInodes, Used: st.UsedInodes, Available: st.FreeInodes})
	}
	return resp, nil
}

func (s *nodeServer) NodeExpandVolume(ctx context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	if err := checkID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	if err := checkString("volume_path", r.GetVolumePath(), maxPathBytes); err != nil {
		return nil, err
	}
	if err := checkRange(r.GetCapacityRange()); err != nil {
		return nil, err
	}
	if c := r.GetVolumeCapability(); c != nil {
		if err := checkCapability(c, errInvalid); err != nil {
			return nil, err
		}
	}
	if err := s.mountedAt(r.GetVolumeId(), r.GetVolumePath()); err != nil {
		return nil, err
	}
	if c := r.GetVolumeCapability(); c != nil {
		h, err := s.mounter.Health(ctx, r.GetVolumeId())
		if err != nil {
			return nil, fmt.Errorf("expand volume: %w", err)
		}
		if isBlock(c) != (h.BlockBytes > 0) {
			return nil, fmt.Errorf("%w: the volume is mounted as a %s", errInvalid, accessTypeName(h.BlockBytes > 0))
		}
	}
	if err := s.checkKeys(ctx, r.GetVolumeId(), r.GetSecrets()); err != nil {
		return nil, fmt.Errorf("expand volume: %w", err)
	}
	if err := s.self.grow(ctx, r.GetVolumeId(), r.GetCapacityRange()); err != nil {
		return nil, err
	}
	s.hook("grow")
	n, err := s.mounter.Grow(ctx, r.GetVolumeId())
	if err != nil {
		return nil, fmt.Errorf("expand volume: %w", err)
	}
	s.hook("grown")
	if req, limit := r.GetCapacityRange().GetRequiredBytes(), r.GetCapacityRange().GetLimitBytes(); n < req || limit > 0 && n > limit {
		return nil, fmt.Errorf("%w: the device still has %d bytes, which is less than required_bytes", errOutOfRange, n)
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: n}, nil
}

// checkKeys checks keys that come with a call, but are not needed for it, against the mounted
// volume.
func (s *nodeServer) checkKeys(ctx context.Context, id string, secrets map[string]string) error {
	keys, found, err := keysOf(secrets)
	if err != nil || !found {
		return err
	}
	defer keys.Clear()
	if err := s.mounter.CheckKeys(ctx, id, keys); !errors.Is(err, mounter.ErrInvalid) { // ErrInvalid: a mounter of a version without this request
		return err
	}
	return nil
}
