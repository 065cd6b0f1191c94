package csi

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

func (s *controllerServer) ControllerModifyVolume(ctx context.Context, r *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	if s.tunable == nil {
		return s.UnimplementedControllerServer.ControllerModifyVolume(ctx, r)
	}
	if err := checkID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	mutable, err := s.mutableParameters(r.GetMutableParameters())
	if err != nil {
		return nil, err
	}
	s.hook("modify")
	if err := s.tunable.Modify(ctx, r.GetVolumeId(), mutable); err != nil {
		return nil, fmt.Errorf("modify volume: %w", err)
	}
	s.hook("modified")
	return &csi.ControllerModifyVolumeResponse{}, nil
}
