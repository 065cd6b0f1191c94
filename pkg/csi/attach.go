package csi

import (
	"context"
	"fmt"
	"maps"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// publishReadOnly in a publish_context tells the node that the attachment is read-only.
const publishReadOnly = "readOnly"

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
