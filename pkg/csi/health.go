package csi

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/mounter"
)

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

// healthPage is how many volumes are checked before the context is checked again.
const healthPage = 100

// ControllerListVolumeHealth lists volumes with adverse conditions. Its tokens are those of the
// volume list.
func (s *controllerServer) ControllerListVolumeHealth(ctx context.Context, r *csi.ControllerListVolumeHealthRequest) (*csi.ControllerListVolumeHealthResponse, error) {
	if r.GetMaxEntries() < 0 {
		return nil, fmt.Errorf("%w: max_entries is negative", errInvalid)
	}
	resp := &csi.ControllerListVolumeHealthResponse{}
	page, token := healthPage, r.GetStartingToken()
	if r.GetMaxEntries() > 0 {
		page = min(page, int(r.GetMaxEntries())) // a page must fit into the response, because a token marks the end of a page
	}
	for {
		vols, next, err := s.backend.List(ctx, token, page)
		if err != nil {
			return nil, fmt.Errorf("list volume health: %w", err)
		}
		for _, v := range vols {
			conds, err := s.backend.Health(ctx, v.ID)
			if err != nil && !errors.Is(err, backend.ErrNotFound) { // otherwise, it was deleted in the meantime
				return nil, fmt.Errorf("list volume health: volume %s: %w", v.ID, err)
			}
			if len(conds) > 0 {
				resp.Entries = append(resp.Entries, health(v.ID, conds))
			}
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

func (s *nodeServer) NodeGetVolumeHealth(ctx context.Context, r *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	if err := checkID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	for what, p := range map[string]string{"volume_publish_path": r.GetVolumePublishPath(), "staging_target_path": r.GetStagingTargetPath()} {
		if p != "" {
			if err := checkPath(what, p); err != nil {
				return nil, err
			}
		}
	}
	var conds []backend.Condition
	h, err := s.mounter.Health(ctx, r.GetVolumeId())
	switch {
	case errors.Is(err, mounter.ErrNotMounted):
		_, err := s.backend.Device(ctx, r.GetVolumeId(), nil)
		if errors.Is(err, backend.ErrDamaged) {
			conds = append(conds, backend.Condition{Inaccessible: true, Reason: "DeviceDamaged", Message: err.Error()})
		} else if err != nil && !errors.Is(err, backend.ErrNotAttached) {
			return nil, err
		}
	case err != nil:
		return nil, fmt.Errorf("get health: %w", err)
	default:
		for _, c := range h.Conditions {
			conds = append(conds, backend.Condition(c))
		}
		if c := s.unmountedCondition(r, h); c != nil {
			conds = append(conds, *c)
		}
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: health(r.GetVolumeId(), conds)}, nil
}

// unmountedCondition reports a publication that shows the mount of a dead server, or no mount at
// all.
func (s *nodeServer) unmountedCondition(r *csi.NodeGetVolumeHealthRequest, h mounter.Info) *backend.Condition {
	if r.GetVolumePublishPath() == "" || !h.Alive {
		return nil
	}
	published, err1 := topAt(s.root.inMountinfo(r.GetVolumePublishPath()))
	staged, err2 := topAt(h.Target)
	if err1 != nil || err2 != nil || staged == nil || published != nil && published.Major == staged.Major && published.Minor == staged.Minor {
		return nil
	}
	return &backend.Condition{Inaccessible: true, Reason: "PublicationStale",
		Message: "the volume was mounted again after its mount server died; restart the pods that were running at that time"}
}

func (s *nodeServer) NodeGetStorageHealth(ctx context.Context, _ *csi.NodeGetStorageHealthRequest) (*csi.NodeGetStorageHealthResponse, error) {
	resp := &csi.NodeGetStorageHealthResponse{}
	add := func(reason, message string) {
		resp.BackendHealth = append(resp.BackendHealth, &csi.NodeGetStorageHealthResponse_StorageBackendHealth{
			Status: csi.StorageHealthErrorType_STORAGE_UNREACHABLE, Reason: reason, Message: message})
	}
	if err := s.mounter.Ping(ctx); err != nil {
		add("MounterUnreachable", "the mounter does not answer: mounted volumes keep working, but no volume can be mounted or unmounted on this node; check the mounter's pod and its log")
	}
	if _, err := s.backend.Info(ctx); err != nil {
		add("BackendUnreachable", "the backend does not answer: no volume can be staged on this node until it does")
	}
	return resp, nil
}
