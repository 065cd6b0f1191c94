package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// workflow is a volume's life as a list of calls, each of which is repeated until it succeeds.
type workflow struct {
	r       *rig
	id      string
	context map[string]string

	capability *csi.VolumeCapability // nil: multiWriter
	name       string                // "": pvc
	source     *csi.VolumeContentSource
	required   int64 // 0: exactly size
}

func (w *workflow) staging() string { return w.r.path("kubelet/staging" + w.name) }

func (w *workflow) target() string { return w.r.path("kubelet/pods/target" + w.name) }

func (w *workflow) secrets() map[string]string {
	return map[string]string{"kek": strings.Repeat("0123456789abcdef", 4)}
}

func (w *workflow) up() []func() error {
	c := w.capability
	if c == nil {
		c = multiWriter()
	}
	return []func() error{
		func() error {
			sizes := &csi.CapacityRange{RequiredBytes: size, LimitBytes: size}
			if w.required > 0 {
				sizes = &csi.CapacityRange{RequiredBytes: w.required}
			}
			v, err := w.r.ctrl.CreateVolume(w.r.ctx(), &csi.CreateVolumeRequest{Name: "pvc" + w.name, VolumeCapabilities: []*csi.VolumeCapability{c},
				CapacityRange: sizes, VolumeContentSource: w.source, Parameters: map[string]string{"recordSize": "64KiB"}})
			w.id, w.context = v.GetVolume().GetVolumeId(), v.GetVolume().GetVolumeContext()
			return err
		},
		func() error {
			_, err := w.r.ctrl.ControllerPublishVolume(w.r.ctx(), &csi.ControllerPublishVolumeRequest{VolumeId: w.id, NodeId: "node-1", VolumeCapability: c, VolumeContext: w.context})
			return err
		},
		func() error {
			if err := os.Mkdir(w.staging(), 0o750); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
			_, err := w.r.node.NodeStageVolume(w.r.ctx(), &csi.NodeStageVolumeRequest{VolumeId: w.id, StagingTargetPath: w.staging(), VolumeCapability: c, VolumeContext: w.context, Secrets: w.secrets()})
			return err
		},
		func() error {
			_, err := w.r.node.NodePublishVolume(w.r.ctx(), &csi.NodePublishVolumeRequest{VolumeId: w.id, StagingTargetPath: w.staging(), TargetPath: w.target(), VolumeCapability: c, VolumeContext: w.context, Secrets: w.secrets()})
			return err
		},
	}
}

func (w *workflow) expand() []func() error {
	return []func() error{
		func() error {
			_, err := w.r.ctrl.ControllerExpandVolume(w.r.ctx(), &csi.ControllerExpandVolumeRequest{VolumeId: w.id, CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * size}})
			return err
		},
		func() error {
			x, err := w.r.node.NodeExpandVolume(w.r.ctx(), &csi.NodeExpandVolumeRequest{VolumeId: w.id, VolumePath: w.target(), CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * size}})
			if err == nil && x.GetCapacityBytes() != 2*size {
				return fmt.Errorf("expanded to %d", x.GetCapacityBytes())
			}
			return err
		},
	}
}

func (w *workflow) down() []func() error {
	return []func() error{
		func() error {
			_, err := w.r.node.NodeUnpublishVolume(w.r.ctx(), &csi.NodeUnpublishVolumeRequest{VolumeId: w.id, TargetPath: w.target()})
			return err
		},
		func() error {
			_, err := w.r.node.NodeUnstageVolume(w.r.ctx(), &csi.NodeUnstageVolumeRequest{VolumeId: w.id, StagingTargetPath: w.staging()})
			return err
		},
		func() error {
			_, err := w.r.ctrl.ControllerUnpublishVolume(w.r.ctx(), &csi.ControllerUnpublishVolumeRequest{VolumeId: w.id, NodeId: "node-1"})
			return err
		},
		func() error {
			_, err := w.r.ctrl.DeleteVolume(w.r.ctx(), &csi.DeleteVolumeRequest{VolumeId: w.id})
			return err
		},
	}
}

func (w *workflow) run(calls []func() error) {
	w.r.t.Helper()
	for _, call := range calls {
		if err := call(); err != nil {
			w.r.t.Fatal(err)
		}
	}
}

// copies creates a snapshot and a clone of a volume that is not in use, and deletes them.
func (w *workflow) copies() []func() error {
	var snap *csi.Snapshot
	clone := &workflow{r: w.r, name: "clone", capability: w.capability}
	return []func() error{
		func() (err error) {
			snap, err = w.snapshot("snap")
			return err
		},
		func() error {
			clone.source = fromSnapshot(snap.GetSnapshotId())
			return clone.up()[0]()
		},
		func() error { return clone.down()[3]() },
		func() error {
			_, err := w.r.ctrl.DeleteSnapshot(w.r.ctx(), &csi.DeleteSnapshotRequest{SnapshotId: snap.GetSnapshotId()})
			return err
		},
	}
}
