package csi

import (
	"context"
	"fmt"
	"unicode/utf8"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// splitParameters parts those of the backend from ours.
func (s *controllerServer) splitParameters(m map[string]string) (ours, class map[string]string) {
	if s.tunable == nil {
		return m, nil
	}
	for k, v := range m {
		to := &ours
		if own, _ := s.tunable.Parameter(k); own {
			to = &class
		}
		if *to == nil {
			*to = map[string]string{}
		}
		(*to)[k] = v
	}
	return ours, class
}

// mutableParameters checks the parameters of a VolumeAttributesClass.
func (s *controllerServer) mutableParameters(m map[string]string) (map[string]string, error) {
	if err := checkMap("mutable_parameters", m); err != nil || len(m) == 0 {
		return nil, err
	}
	if s.tunable == nil {
		return nil, fmt.Errorf("%w: mutable_parameters are not supported", errInvalid)
	}
	for k := range m {
		if _, mutable := s.tunable.Parameter(k); mutable {
			continue
		}
		if len(k) > maxStringBytes || !utf8.ValidString(k) {
			return nil, fmt.Errorf("%w: mutable_parameters have an unknown key", errInvalid)
		}
		return nil, fmt.Errorf("%w: %q cannot be changed by a VolumeAttributesClass", errInvalid, k)
	}
	return m, nil
}

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
