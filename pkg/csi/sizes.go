package csi

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/mounter"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// capacityOf returns how much of the device the volume's user gets. For raw block devices, the spec
// wants exactly the requested size.
func capacityOf(deviceBytes int64, params map[string]string) int64 {
	if isBlockContext(params) {
		return mounter.RawBytes(deviceBytes)
	}
	return deviceBytes
}

// maxRawBytes keeps sums from overflowing; no backend has so much.
const maxRawBytes = 1 << 61

// defaultRawBytes is the size of a raw block device if the request has none.
const defaultRawBytes = 1 << 30

// parseRange reads the requested size of a volume's device; 0 means any.
func parseRange(r *csi.CapacityRange, block bool) (required, limit int64, err error) {
	if err := checkRange(r); err != nil {
		return 0, 0, err
	}
	if block {
		return rawRange(r.GetRequiredBytes(), r.GetLimitBytes())
	}
	return r.GetRequiredBytes(), r.GetLimitBytes(), nil
}

// rawRange translates sizes of a raw block device into sizes of the volume's device.
func rawRange(required, limit int64) (requiredDevice, limitDevice int64, err error) {
	if required > maxRawBytes || limit > 0 && limit < mounter.RawAlign {
		return 0, 0, fmt.Errorf("%w: no raw block device fits between required_bytes %d and limit_bytes %d", errOutOfRange, required, limit)
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

func (s *controllerServer) GetCapacity(ctx context.Context, r *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	if s.meter == nil {
		return s.UnimplementedControllerServer.GetCapacity(ctx, r)
	}
	if _, _, err := s.classParameters(r.GetParameters(), false); err != nil {
		return nil, err
	}
	block := false
	if c := r.GetVolumeCapabilities(); len(c) > 0 {
		var err error
		if block, err = parseCapabilities(c); err != nil {
			return &csi.GetCapacityResponse{}, nil //nolint:nilerr // no capacity for volumes that the driver does not create
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

// expand grows a volume's device so that its user gets the required size, and returns the size of
// the device.
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

func checkRange(r *csi.CapacityRange) error {
	req, limit := r.GetRequiredBytes(), r.GetLimitBytes()
	if req < 0 || limit < 0 {
		return fmt.Errorf("%w: capacity_range is negative", errInvalid)
	}
	if limit > 0 && req > limit {
		return fmt.Errorf("%w: required_bytes exceeds limit_bytes", errInvalid)
	}
	return nil
}
