package csi

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/sealvol/sealvol/pkg/mounter"
)

// staging is what stage and publish requests have in common.
type staging interface {
	GetVolumeId() string
	GetStagingTargetPath() string
	GetVolumeCapability() *csi.VolumeCapability
	GetVolumeContext() map[string]string
	GetPublishContext() map[string]string
	GetSecrets() map[string]string
}

// stagePlan is what a stage or publish request asks for.
type stagePlan struct {
	mounter.MountRequest
	staging string // the staging path, below the kubelet's directory
}

// plan checks a request and returns what to mount, still without the device and the keys.
func (s *nodeServer) plan(r staging) (stagePlan, error) {
	if err := checkID(r.GetVolumeId()); err != nil {
		return stagePlan{}, err
	}
	rel, err := s.root.rel("staging_target_path", r.GetStagingTargetPath())
	if err != nil {
		return stagePlan{}, err
	}
	if err := checkCapability(r.GetVolumeCapability(), errPrecondition); err != nil { // "Exceeds capabilities"
		return stagePlan{}, err
	}
	_, format, err := parseContext(r.GetVolumeContext())
	if err != nil {
		return stagePlan{}, err
	}
	if err := checkAccessType(r.GetVolumeCapability(), r.GetVolumeContext(), errPrecondition); err != nil {
		return stagePlan{}, err
	}
	if err := checkMap("publish_context", r.GetPublishContext()); err != nil {
		return stagePlan{}, err
	}
	q := stagePlan{staging: rel, MountRequest: mounter.MountRequest{Volume: r.GetVolumeId(), Source: sourceOf(r.GetVolumeId()), Target: filepath.Join(s.root.real, rel),
		ReadOnly: isReader(r.GetVolumeCapability()) || r.GetPublishContext()[publishReadOnly] == "true"}}
	if !q.ReadOnly {
		q.Format = format
	}
	if isBlock(r.GetVolumeCapability()) {
		q.Block = &mounter.Block{}
	}
	// Only a volume whose context declares it a copy may hold another volume's content. For any
	// other volume, such content is an undeclared copy.
	q.Instance, q.RejectCopy = instanceOf(r.GetVolumeId()), r.GetVolumeContext()[contextKeyVolume] == ""
	return q, nil
}

// instanceOf returns the instance ID of a volume's device, which distinguishes it from its copies:
// a UUID (version 8 of RFC 9562) derived from the volume id.
func instanceOf(id string) string {
	h := sha256.Sum256([]byte("sealvol instance\x00" + id))
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// withDevice adds the device. The backend finds it and describes it so that the mounter opens no
// other.
func (s *nodeServer) withDevice(ctx context.Context, q stagePlan, publishContext map[string]string) (stagePlan, error) {
	d, err := s.backend.Device(ctx, q.Volume, publishContext)
	if err != nil {
		return q, fmt.Errorf("find the device: %w", err)
	}
	q.Device = mounter.Device{Path: d.Path, SizeBytes: d.SizeBytes, Dev: d.Dev, Ino: d.Ino, Rdev: d.Rdev}
	if d.ReadOnly { // whatever the publish_context says
		q.ReadOnly, q.Format = true, nil
	}
	if q.Block != nil {
		if q.Block.SizeBytes = mounter.RawBytes(d.SizeBytes); q.Block.SizeBytes == 0 {
			return q, fmt.Errorf("%w: a device of %d bytes is too small for a raw block volume", errPrecondition, d.SizeBytes)
		}
	}
	return q, nil
}

func (s *nodeServer) NodeStageVolume(ctx context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	q, err := s.plan(r)
	if err != nil {
		return nil, err
	}
	keys, found, err := keysOf(r.GetSecrets())
	if err != nil {
		return nil, err
	}
	defer keys.Clear()
	undo, err := s.self.attach(ctx, r, q.MountRequest)
	if err != nil {
		return nil, err
	}
	if err := s.stage(ctx, r, q, keys, found); err != nil {
		return nil, undo(err)
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

// stage mounts an attached volume.
func (s *nodeServer) stage(ctx context.Context, r staging, q stagePlan, keys mounter.Keys, found bool) error {
	q, err := s.withDevice(ctx, q, r.GetPublishContext())
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("%w: missing key: the stage secret has no field %q", errSecrets, secretKEK)
	}
	if err := s.checkStaging(q.staging); err != nil {
		return err
	}
	if q.Anchor, err = s.agent.Anchor(ctx, q.Volume); err != nil {
		return fmt.Errorf("stage volume: %w: %w", errUnavailable, err)
	}
	q.Keys, q.ReplaceKey = keys, true // if the volume is already mounted, its keys must match
	s.hook("stage")
	if err := s.mountOrFormat(ctx, q.MountRequest, r.GetVolumeContext()[contextKeyVolume]); err != nil {
		return fmt.Errorf("stage volume: %w", err)
	}
	s.groups.forget(q.Volume)
	s.agent.Staged(q.Volume)
	s.hook("staged")
	return nil
}

// checkStaging refuses a staging path that contains a link or is not a directory.
func (s *nodeServer) checkStaging(rel string) error {
	f, err := s.root.open("staging_target_path", rel)
	if err != nil {
		return err
	}
	return f.Close()
}

func (s *nodeServer) NodeUnstageVolume(ctx context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	if err := checkID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	rel, err := s.root.rel("staging_target_path", r.GetStagingTargetPath())
	if err != nil {
		return nil, err
	}
	if err := s.checkStaging(rel); err != nil && !errors.Is(err, errMissing) {
		return nil, err
	}
	s.hook("unstage")
	s.agent.Unstaging(ctx, r.GetVolumeId())
	defer s.agent.Unstaged(r.GetVolumeId())
	err = s.mounter.Unmount(ctx, mounter.UnmountRequest{Volume: r.GetVolumeId(), Source: sourceOf(r.GetVolumeId()), Target: filepath.Join(s.root.real, rel)})
	if err != nil {
		return nil, fmt.Errorf("unstage volume: %w", err)
	}
	s.groups.forget(r.GetVolumeId())
	s.hook("unstaged")
	if err := s.self.detach(ctx, r.GetVolumeId()); err != nil {
		return nil, err
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

// ensureStaged checks that the volume is staged. If its mount server has died, it mounts the volume
// again with the keys of the publish secret.
func (s *nodeServer) ensureStaged(ctx context.Context, r *csi.NodePublishVolumeRequest, q stagePlan, keys mounter.Keys, found bool) (stagePlan, error) {
	q, err := s.withDevice(ctx, q, r.GetPublishContext())
	if err != nil {
		return q, err
	}
	h, err := s.mounter.Health(ctx, q.Volume)
	switch {
	case errors.Is(err, mounter.ErrNotMounted):
		return q, fmt.Errorf("%w: the volume is not staged on this node", errPrecondition)
	case err != nil:
		return q, err
	case h.Target != q.Target:
		return q, fmt.Errorf("%w: the volume is staged at another path than staging_target_path", errPrecondition)
	case !h.Alive && !found:
		return q, fmt.Errorf("%w: missing key: the mount server has died, and the publish secret has no field %q to mount the volume again", errSecrets, secretKEK)
	}
	if q.Block != nil {
		q.Block.ReadOnlyToo = r.GetReadonly()
	}
	q.Keys, q.ReplaceKey, q.RequireRunning = keys, true, h.Alive // the keys that the kubelet sends with requiresRepublish
	q.Format = nil                                               // the volume was staged before: never format now
	s.hook("ensure staged")
	if h.Alive {
		err := s.mounter.Mount(ctx, q.MountRequest)
		if err == nil {
			return q, nil
		}
		if !errors.Is(err, mounter.ErrDead) {
			return q, fmt.Errorf("publish volume: %w", err)
		}
		q.RequireRunning = false // the server died in the meantime
	}
	return q, s.remount(ctx, q.MountRequest)
}

// remount mounts a volume again whose mount server has died, unless its device holds an older state
// than the anchor.
func (s *nodeServer) remount(ctx context.Context, q mounter.MountRequest) (err error) {
	if q.Anchor, err = s.agent.Anchor(ctx, q.Volume); err != nil {
		return fmt.Errorf("publish volume: %w: %w", errUnavailable, err)
	}
	if err := s.mounter.Mount(ctx, q); err != nil {
		return fmt.Errorf("publish volume: %w", lostIfBlank(err))
	}
	s.groups.forget(q.Volume) // changes that the dead server had not synced may be lost
	s.agent.Remounted(q.Volume)
	return nil
}
