package csi

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// announcedController and announcedNode only advertise the capabilities of services that run on
// each node; they implement nothing. From them, csi-resizer learns that the node grows volumes and
// the controller does not, so it only passes the new size on to the kubelets.
type (
	announcedController struct {
		csi.UnimplementedControllerServer
	}
	announcedNode struct {
		csi.UnimplementedNodeServer
	}
)

// ControllerGetCapabilities returns no capabilities: this service answers no other controller call.
func (announcedController) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	return &csi.ControllerGetCapabilitiesResponse{}, nil
}

func (announcedNode) NodeGetCapabilities(ctx context.Context, r *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return (*nodeServer)(nil).NodeGetCapabilities(ctx, r)
}
