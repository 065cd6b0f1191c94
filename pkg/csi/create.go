package csi

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/sealvol/sealvol/pkg/backend"
)

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

// elsewhere translates "source not found" into ErrTopology if the CO chose this node. The CO then
// tries another node; after "not found" it would give up.
func (s *controllerServer) elsewhere(r *csi.CreateVolumeRequest, err error) error {
	missing := errors.Is(err, backend.ErrSnapshotNotFound) || errors.Is(err, backend.ErrNotFound)
	if s.self == nil || !missing || len(r.GetAccessibilityRequirements().GetRequisite()) == 0 {
		return err
	}
	return fmt.Errorf("%w: the source is not on this node", backend.ErrTopology)
}

// createSpec parses everything in a request except its source.
func (s *controllerServer) createSpec(r *csi.CreateVolumeRequest) (spec backend.Spec, err error) {
	spec.Name = r.GetName()
	if err := checkString("name", spec.Name, maxStringBytes); err != nil {
		return backend.Spec{}, err
	}
	block, err := parseCapabilities(r.GetVolumeCapabilities())
	if err != nil {
		return backend.Spec{}, err
	}
	if spec.RequiredBytes, spec.LimitBytes, err = parseRange(r.GetCapacityRange(), block); err != nil {
		return backend.Spec{}, err
	}
	if spec.Mutable, err = s.mutableParameters(r.GetMutableParameters()); err != nil {
		return backend.Spec{}, err
	}
	if spec.Parameters, spec.Class, err = s.classParameters(r.GetParameters(), block); err != nil {
		return backend.Spec{}, err
	}
	spec.For = purposeOf(r.GetParameters())
	spec.Requisite = segments(r.GetAccessibilityRequirements().GetRequisite())
	spec.Preferred = segments(r.GetAccessibilityRequirements().GetPreferred())
	return spec, nil
}

func segments(list []*csi.Topology) []backend.Segments {
	var s []backend.Segments
	for _, t := range list {
		s = append(s, t.GetSegments())
	}
	return s
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

// contentSource checks the source of a new volume. A copy is already formatted, so its access type
// and suite must match the source. If the source was deleted, the backend may still have the volume
// that an earlier call made from it.
func (s *controllerServer) contentSource(ctx context.Context, r *csi.CreateVolumeRequest, params map[string]string) (*backend.Source, error) {
	if s.snapshots == nil {
		return nil, fmt.Errorf("%w: volume_content_source is not supported", errInvalid)
	}
	var source backend.Source
	var of map[string]string
	switch c := r.GetVolumeContentSource().GetType().(type) {
	case *csi.VolumeContentSource_Snapshot:
		source.Snapshot = c.Snapshot.GetSnapshotId()
		if err := checkString("snapshot_id", source.Snapshot, maxStringBytes); err != nil {
			return nil, err
		}
		snap, err := s.snapshots.GetSnapshot(ctx, source.Snapshot)
		if errors.Is(err, backend.ErrSnapshotNotFound) {
			return &source, nil
		}
		if err != nil {
			return nil, err
		}
		if snap.State != backend.SnapshotReady {
			return nil, fmt.Errorf("%w: the source snapshot is not ready to use yet; retry later", errUnavailable)
		}
		of = snap.Parameters
	case *csi.VolumeContentSource_Volume:
		source.Volume = c.Volume.GetVolumeId()
		if err := checkID(source.Volume); err != nil {
			return nil, err
		}
		v, err := s.backend.Get(ctx, source.Volume)
		if errors.Is(err, backend.ErrNotFound) {
			return &source, nil
		}
		if err != nil {
			return nil, err
		}
		of = v.Parameters
	default:
		return nil, fmt.Errorf("%w: volume_content_source is neither a snapshot nor a volume", errInvalid)
	}
	if isBlockContext(of) != isBlockContext(params) {
		return nil, fmt.Errorf("%w: the source is a %s", errInvalid, accessTypeName(isBlockContext(of)))
	}
	if a, b := suiteOf(of), suiteOf(params); a != b {
		return nil, fmt.Errorf("%w: the source is encrypted with the suite %s, and a copy keeps the suite of its source; remove the parameter or set it to this suite", errInvalid, a)
	}
	return &source, nil
}
