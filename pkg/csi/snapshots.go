package csi

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/backend"
)

// paramMethod is a parameter of a VolumeSnapshotClass that selects how a snapshot is made.
// methodDevice makes it in the backend.
const (
	paramMethod  = "method"
	methodDevice = "device"
)

func (s *controllerServer) CreateSnapshot(ctx context.Context, r *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	if s.snapshots == nil {
		return s.UnimplementedControllerServer.CreateSnapshot(ctx, r)
	}
	if err := checkString("name", r.GetName(), maxStringBytes); err != nil {
		return nil, err
	}
	if err := checkString("source_volume_id", r.GetSourceVolumeId(), maxStringBytes); err != nil {
		return nil, err
	}
	if err := checkSnapshotParameters(r.GetParameters()); err != nil {
		return nil, err
	}
	if r.GetAccessibilityRequirements() != nil {
		return nil, fmt.Errorf("%w: accessibility_requirements of snapshots are not supported", errInvalid)
	}
	s.hook("snapshot")
	snap, err := s.snapshots.CreateSnapshot(ctx, backend.SnapshotSpec{Name: r.GetName(), Volume: r.GetSourceVolumeId(), For: purposeOf(r.GetParameters())})
	if err != nil {
		return nil, fmt.Errorf("create snapshot: %w", err)
	}
	if snap.State == backend.SnapshotFailed {
		return nil, fmt.Errorf("create snapshot: %w: snapshot %s failed and has no data; delete it and create another: %s", errPrecondition, snap.ID, snap.Message)
	}
	s.hook("snapshot made")
	return &csi.CreateSnapshotResponse{Snapshot: snapshot(snap)}, nil
}

func checkSnapshotParameters(m map[string]string) error {
	if err := checkMap("parameters", m); err != nil {
		return err
	}
	for k, v := range m {
		switch {
		case addedByKubernetes(k):
		case k == paramMethod && v == methodDevice:
		case k == paramMethod:
			return fmt.Errorf("%w: parameters: %s must be %s", errInvalid, paramMethod, methodDevice)
		default:
			return fmt.Errorf("%w: parameters have an unknown key", errInvalid)
		}
	}
	return nil
}

func snapshot(s backend.Snapshot) *csi.Snapshot {
	return &csi.Snapshot{SnapshotId: s.ID, SourceVolumeId: s.Volume, SizeBytes: capacityOf(s.SizeBytes, s.Parameters),
		CreationTime: timestamppb.New(s.Created), ReadyToUse: s.State == backend.SnapshotReady}
}

func (s *controllerServer) DeleteSnapshot(ctx context.Context, r *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	if s.snapshots == nil {
		return s.UnimplementedControllerServer.DeleteSnapshot(ctx, r)
	}
	if err := checkString("snapshot_id", r.GetSnapshotId(), maxStringBytes); err != nil {
		return nil, err
	}
	s.hook("delete snapshot")
	if err := s.snapshots.DeleteSnapshot(ctx, r.GetSnapshotId()); err != nil {
		return nil, fmt.Errorf("delete snapshot: %w", err)
	}
	s.hook("snapshot deleted")
	return &csi.DeleteSnapshotResponse{}, nil
}

func (s *controllerServer) GetSnapshot(ctx context.Context, r *csi.GetSnapshotRequest) (*csi.GetSnapshotResponse, error) {
	if s.snapshots == nil {
		return s.UnimplementedControllerServer.GetSnapshot(ctx, r)
	}
	if err := checkString("snapshot_id", r.GetSnapshotId(), maxStringBytes); err != nil {
		return nil, err
	}
	snap, err := s.snapshots.GetSnapshot(ctx, r.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	return &csi.GetSnapshotResponse{Snapshot: snapshot(snap)}, nil
}

func (s *controllerServer) ListSnapshots(ctx context.Context, r *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	if s.snapshots == nil {
		return s.UnimplementedControllerServer.ListSnapshots(ctx, r)
	}
	if r.GetMaxEntries() < 0 {
		return nil, fmt.Errorf("%w: max_entries is negative", errInvalid)
	}
	resp := &csi.ListSnapshotsResponse{}
	if id := r.GetSnapshotId(); id != "" {
		snap, err := s.snapshots.GetSnapshot(ctx, id)
		if errors.Is(err, backend.ErrSnapshotNotFound) {
			return resp, nil
		}
		if err != nil {
			return nil, err
		}
		if of := r.GetSourceVolumeId(); of == "" || of == snap.Volume {
			resp.Entries = []*csi.ListSnapshotsResponse_Entry{{Snapshot: snapshot(snap)}}
		}
		return resp, nil
	}
	snaps, next, err := s.snapshots.ListSnapshots(ctx, r.GetSourceVolumeId(), r.GetStartingToken(), int(r.GetMaxEntries()))
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	resp.NextToken = next
	for _, snap := range snaps {
		resp.Entries = append(resp.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: snapshot(snap)})
	}
	return resp, nil
}
