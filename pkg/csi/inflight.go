package csi

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// inflight is the set of volumes and names with a running operation. A second operation is refused,
// never queued: the CO retries it.
type inflight struct {
	mu   sync.Mutex
	keys map[string]bool // guarded by mu
}

func (f *inflight) begin(key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keys[key] {
		return false
	}
	if f.keys == nil {
		f.keys = map[string]bool{}
	}
	f.keys[key] = true
	return true
}

func (f *inflight) end(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.keys, key)
}

// key returns what a call that changes something must have for itself, or "" for other calls.
func (*inflight) key(req any) string {
	switch r := req.(type) {
	case *csi.CreateVolumeRequest:
		return "name " + r.GetName()
	case *csi.CreateSnapshotRequest:
		return "snapshot name " + r.GetName()
	case *csi.DeleteSnapshotRequest:
		return "snapshot " + r.GetSnapshotId()
	case *csi.ControllerModifyVolumeRequest:
		return "modify " + r.GetVolumeId() // may run beside an expansion: the backend combines both into one modification
	case *csi.ControllerExpandVolumeRequest:
		return "expand " + r.GetVolumeId() // a cloud may take minutes for it, and a detachment must not wait that long
	case *csi.DeleteVolumeRequest, *csi.ControllerPublishVolumeRequest, *csi.ControllerUnpublishVolumeRequest,
		*csi.NodeStageVolumeRequest, *csi.NodeUnstageVolumeRequest,
		*csi.NodePublishVolumeRequest, *csi.NodeUnpublishVolumeRequest, *csi.NodeExpandVolumeRequest:
		return "volume " + req.(interface{ GetVolumeId() string }).GetVolumeId()
	}
	return ""
}

func (f *inflight) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	key := f.key(req)
	if key == "" {
		return next(ctx, req)
	}
	if !f.begin(key) {
		return nil, fmt.Errorf("%w", errInFlight)
	}
	defer f.end(key)
	return next(ctx, req)
}
