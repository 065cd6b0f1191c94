package csi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/moby/sys/mountinfo"
	"github.com/sealvol/sealvol/pkg/mounter"
	"golang.org/x/sys/unix"
)

func (s *nodeServer) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if err := checkID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	target, err := s.root.rel("target_path", r.GetTargetPath())
	if err != nil {
		return nil, err
	}
	if r.GetVolumeCapability() == nil {
		return nil, fmt.Errorf("%w: volume_capability is missing", errInvalid)
	}
	if r.GetStagingTargetPath() == "" {
		return nil, fmt.Errorf("%w: staging_target_path is missing", errPrecondition)
	}
	q, err := s.plan(r)
	if err != nil {
		return nil, err
	}
	if q.Target == filepath.Join(s.root.real, target) {
		return nil, fmt.Errorf("%w: target_path equals staging_target_path", errInvalid)
	}
	keys, found, err := keysOf(r.GetSecrets())
	if err != nil {
		return nil, err
	}
	defer keys.Clear()
	if q, err = s.ensureStaged(ctx, r, q, keys, found); err != nil {
		return nil, err
	}
	readOnly := q.ReadOnly || r.GetReadonly()
	if err := s.publish(ctx, r.GetVolumeCapability(), q, target, readOnly); err != nil {
		return nil, err
	}
	s.hook("published")
	return &csi.NodePublishVolumeResponse{}, nil
}

// publish mounts the staged volume at the target; see the table of NodePublishVolume in the spec.
func (s *nodeServer) publish(ctx context.Context, c *csi.VolumeCapability, q stagePlan, target string, readOnly bool) error {
	mounts, err := mountsOf(q.Volume)
	if err != nil {
		return err
	}
	at := filepath.Join(s.root.real, target)
	var staged *mountinfo.Info
	for _, m := range mounts {
		if (m.FSType == mounter.NodeFSType) != (q.Block != nil) {
			continue // the hidden mount of a raw block volume
		}
		switch m.Mountpoint {
		case q.Target:
			staged = m
		case at:
		default:
			if c.GetAccessMode().GetMode() != csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER {
				return fmt.Errorf("%w: the volume is already published at another path, and its access mode allows only one", errPrecondition)
			}
		}
	}
	if staged == nil {
		return fmt.Errorf("%w: the volume is not staged at staging_target_path", errPrecondition)
	}
	parent, err := s.root.open("target_path", filepath.Dir(target))
	if err != nil {
		return err
	}
	defer parent.Close()
	name := filepath.Base(target)
	top, err := topAt(at)
	if err != nil {
		return err
	}
	if top != nil {
		alive := isOurs(top, q.Source) && top.Major == staged.Major && top.Minor == staged.Minor
		switch {
		case !isOurs(top, q.Source):
			return fmt.Errorf("%w: something else is mounted at target_path", errPrecondition)
		case alive && q.Block != nil && top.Root == "/"+nodeOf(readOnly):
			return nil
		case alive && q.Block == nil && sameAttributes(top, c.GetMount().GetMountFlags(), readOnly):
			return nil
		case alive:
			return fmt.Errorf("%w: the volume is already published at target_path with other flags", errIncompatible)
		}
		// The mount of a dead mount server.
		s.hook("detach dead")
		if err := detach(parent, name); err != nil {
			return err
		}
	}
	from, err := s.root.open("staging_target_path", q.staging)
	if err != nil {
		return err
	}
	defer from.Close()
	if q.Block != nil {
		return s.bindDevice(from, nodeOf(readOnly), parent, name)
	}
	if err := s.groups.apply(ctx, q.Volume, from, c, readOnly); err != nil {
		return err
	}
	return s.bindTo(from, parent, name, attributes(c.GetMount().GetMountFlags(), readOnly))
}

// nodeOf returns the device node for a publication. Read-only needs a node of its own: a read-only
// mount does not stop writes to a device.
func nodeOf(readOnly bool) string {
	if readOnly {
		return mounter.NodeRO
	}
	return mounter.NodeRW
}

// bindDevice mounts a device node of the staging directory onto the file parent/name.
func (s *nodeServer) bindDevice(staging *os.File, node string, parent *os.File, name string) error {
	from, err := openFileBelow(staging, "device node", node, unix.S_IFBLK)
	if err != nil {
		return err
	}
	defer from.Close()
	s.hook("make target")
	target, err := openFileBelow(parent, "target_path", name, unix.S_IFREG)
	if err != nil {
		return err
	}
	defer target.Close()
	s.hook("bind")
	return bind(from, target, &unix.MountAttr{})
}

func (s *nodeServer) bindTo(from, parent *os.File, name string, attr *unix.MountAttr) error {
	s.hook("make target")
	// Only root may look into a directory below the kubelet's; once the volume is mounted, its own
	// mode applies.
	if err := unix.Mkdirat(int(parent.Fd()), name, 0o750); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make target_path: %w", err)
	}
	target, err := openBelow(parent, "target_path", name)
	if err != nil {
		return err
	}
	defer target.Close()
	s.hook("bind")
	return bind(from, target, attr)
}

func (s *nodeServer) NodeUnpublishVolume(ctx context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if err := checkID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	target, err := s.root.rel("target_path", r.GetTargetPath())
	if err != nil {
		return nil, err
	}
	parent, err := s.root.open("target_path", filepath.Dir(target))
	if errors.Is(err, errMissing) {
		return &csi.NodeUnpublishVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	if err := s.unpublish(r.GetVolumeId(), parent, filepath.Base(target), filepath.Join(s.root.real, target)); err != nil {
		return nil, err
	}
	s.hook("unpublished")
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// unpublish removes all of the volume's mounts at a path, and then the directory or file.
func (s *nodeServer) unpublish(id string, parent *os.File, name, at string) error {
	for {
		top, err := topAt(at)
		if err != nil {
			return err
		}
		if top == nil {
			break
		}
		if !isOurs(top, sourceOf(id)) {
			return fmt.Errorf("%w: something else is mounted at target_path", errPrecondition)
		}
		s.hook("unmount target")
		if err := detach(parent, name); err != nil {
			return err
		}
	}
	s.hook("remove target")
	if removed, err := removeEmptyFile(parent, name); removed || err != nil {
		return err
	}
	err := unix.Unlinkat(int(parent.Fd()), name, unix.AT_REMOVEDIR)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENOTEMPTY):
		// The driver did not create this: a link, a file, or a directory that is not empty. Never
		// remove it.
		return fmt.Errorf("%w: target_path is not an empty directory; remove its contents, which the driver did not create", errInvalid)
	}
	return fmt.Errorf("remove target_path: %w", err)
}

// removeEmptyFile removes the target of a raw block device. The driver never created a file with
// contents.
func removeEmptyFile(parent *os.File, name string) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(parent.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != 0 {
		return false, nil //nolint:nilerr // removing the directory returns the same error
	}
	if err := unix.Unlinkat(int(parent.Fd()), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return false, fmt.Errorf("remove target_path: %w", err)
	}
	return true, nil
}
