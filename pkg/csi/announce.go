package csi

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// announcedController and announcedNode say what the services can that run elsewhere, on each node, and do nothing. csi-resizer learns from them
// that the controller does not grow volumes but the node does: it then passes the new size on to the kubelets.
type (
	announcedController struct {
		csi.UnimplementedControllerServer
	}
	announcedNode struct {
		csi.UnimplementedNodeServer
	}
)

// ControllerGetCapabilities has none: nothing can be asked of this service.
func (announcedController) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	return &csi.ControllerGetCapabilitiesResponse{}, nil
}

func (announcedNode) NodeGetCapabilities(ctx context.Context, r *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return (*nodeServer)(nil).NodeGetCapabilities(ctx, r)
}
