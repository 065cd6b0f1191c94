package csi

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/mounter"
)

type nodeServer struct {
	csi.UnimplementedNodeServer
	backend backend.Node
	mounter Mounter
	self    *selfAttach // nil: attached and grown by calls of the controller
	agent   Agent
	root    *root
	hook    func(step string)
	groups  groupWalks
	formats formatKeepers
	log     *slog.Logger
}

var nodeCapabilities = []csi.NodeServiceCapability_RPC_Type{
	csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
	csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
	csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
	csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
	csi.NodeServiceCapability_RPC_GET_STORAGE_HEALTH,
	csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP,
}

func (s *nodeServer) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	resp := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range nodeCapabilities {
		resp.Capabilities = append(resp.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}}})
	}
	return resp, nil
}

func (s *nodeServer) NodeGetInfo(ctx context.Context, _ *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	i, err := s.backend.Info(ctx)
	if err != nil {
		return nil, err
	}
	return &csi.NodeGetInfoResponse{NodeId: i.ID, MaxVolumesPerNode: i.MaxVolumes, AccessibleTopology: &csi.Topology{Segments: i.Topology}}, nil
}

// staging is what stage and publish requests have in common.
type staging interface {
	GetVolumeId() string
	GetStagingTargetPath() string
	GetVolumeCapability() *csi.VolumeCapability
	GetVolumeContext() map[string]string
	GetPublishContext() map[string]string
	GetSecrets() map[string]string
}

// stagingRequest checks a request and says what to mount, without the device and the keys.
func (s *nodeServer) stagingRequest(r staging) (mounter.MountRequest, error) {
	if err := checkID(r.GetVolumeId()); err != nil {
		return mounter.MountRequest{}, err
	}
	rel, err := s.root.rel("staging_target_path", r.GetStagingTargetPath())
	if err != nil {
		return mounter.MountRequest{}, err
	}
	if err := checkCapability(r.GetVolumeCapability(), errPrecondition); err != nil { // "Exceeds capabilities"
		return mounter.MountRequest{}, err
	}
	_, format, err := parseContext(r.GetVolumeContext())
	if err != nil {
		return mounter.MountRequest{}, err
	}
	if err := checkAccessType(r.GetVolumeCapability(), r.GetVolumeContext(), errPrecondition); err != nil {
		return mounter.MountRequest{}, err
	}
	if err := checkMap("publish_context", r.GetPublishContext()); err != nil {
		return mounter.MountRequest{}, err
	}
	q := mounter.MountRequest{Volume: r.GetVolumeId(), Source: sourceOf(r.GetVolumeId()), Target: filepath.Join(s.root.real, rel),
		ReadOnly: isReader(r.GetVolumeCapability()) || r.GetPublishContext()[publishReadOnly] == "true"}
	if !q.ReadOnly {
		q.Format = format
	}
	if isBlock(r.GetVolumeCapability()) {
		q.Block = &mounter.Block{}
	}
	// What says that it is a copy may bring another's content. Of a volume that does not, that would be a copy of which nobody knows.
	q.Instance, q.RejectCopy = instanceOf(r.GetVolumeId()), r.GetVolumeContext()[contextKeyVolume] == ""
	return q, nil
}

// instanceOf names a volume's device, so that it is known from its copies: a UUID (version 8 of RFC 9562) that is the same each time.
func instanceOf(id string) string {
	h := sha256.Sum256([]byte("sealvol instance\x00" + id))
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// withDevice adds the device, found by the backend and identified so that the mounter opens no other.
func (s *nodeServer) withDevice(ctx context.Context, q mounter.MountRequest, publishContext map[string]string) (mounter.MountRequest, error) {
	d, err := s.backend.Device(ctx, q.Volume, publishContext)
	if err != nil {
		return q, fmt.Errorf("find the device: %w", err)
	}
	q.Device = mounter.Device{Path: d.Path, SizeBytes: d.SizeBytes, Dev: d.Dev, Ino: d.Ino, Rdev: d.Rdev}
	if d.ReadOnly { // whatever became of the publish_context
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
	q, err := s.stagingRequest(r)
	if err != nil {
		return nil, err
	}
	keys, found, err := keysOf(r.GetSecrets())
	if err != nil {
		return nil, err
	}
	defer keys.Clear()
	undo, err := s.self.attach(ctx, r, q)
	if err != nil {
		return nil, err
	}
	if err := s.stage(ctx, r, q, keys, found); err != nil {
		return nil, undo(err)
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

// stage mounts an attached volume.
func (s *nodeServer) stage(ctx context.Context, r staging, q mounter.MountRequest, keys mounter.Keys, found bool) error {
	q, err := s.withDevice(ctx, q, r.GetPublishContext())
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("%w: the stage secret has no %s", errSecrets, secretKEK)
	}
	if err := s.checkStagingPath(r.GetStagingTargetPath()); err != nil {
		return err
	}
	if q.Anchor, err = s.agent.Anchor(ctx, q.Volume); err != nil {
		return fmt.Errorf("stage volume: %w: %w", errUnavailable, err)
	}
	q.Keys, q.ReplaceKey = keys, true // also those of a volume that is mounted already have to be its own
	s.hook("stage")
	if err := s.mountOrMake(ctx, q, r.GetVolumeContext()[contextKeyVolume]); err != nil {
		return fmt.Errorf("stage volume: %w", err)
	}
	s.groups.forget(q.Volume)
	s.agent.Staged(q.Volume)
	s.hook("staged")
	return nil
}

// checkStagingPath refuses links and what is not a directory.
func (s *nodeServer) checkStagingPath(path string) error {
	rel, err := s.root.rel("staging_target_path", path)
	if err != nil {
		return err
	}
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
	if err := s.checkStagingPath(r.GetStagingTargetPath()); err != nil && !errors.Is(err, errMissing) {
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
	q, err := s.stagingRequest(r)
	if err != nil {
		return nil, err
	}
	if q.Target == filepath.Join(s.root.real, target) {
		return nil, fmt.Errorf("%w: target_path is the staging path", errInvalid)
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

// ensureStaged finds the volume staged, or, when its server has died, mounts it anew with the publish secret's keys.
func (s *nodeServer) ensureStaged(ctx context.Context, r *csi.NodePublishVolumeRequest, q mounter.MountRequest, keys mounter.Keys, found bool) (mounter.MountRequest, error) {
	q, err := s.withDevice(ctx, q, r.GetPublishContext())
	if err != nil {
		return q, err
	}
	h, err := s.mounter.Health(ctx, q.Volume)
	switch {
	case errors.Is(err, mounter.ErrNotMounted):
		return q, fmt.Errorf("%w: the volume is not staged", errPrecondition)
	case err != nil:
		return q, err
	case h.Target != q.Target:
		return q, fmt.Errorf("%w: the volume is staged at another path", errPrecondition)
	case !h.Alive && !found:
		return q, fmt.Errorf("%w: the volume's server has died and the publish secret has no %s to mount it again", errSecrets, secretKEK)
	}
	if q.Block != nil {
		q.Block.ReadOnlyToo = r.GetReadonly()
	}
	q.Keys, q.ReplaceKey, q.RequireRunning = keys, true, h.Alive // what the kubelet brings with requiresRepublish
	q.Format = nil                                  // it was staged: whatever its device holds now, nothing is made on it
	s.hook("ensure staged")
	if h.Alive {
		err := s.mounter.Mount(ctx, q)
		if err == nil {
			return q, nil
		}
		if !errors.Is(err, mounter.ErrDead) {
			return q, fmt.Errorf("publish volume: %w", err)
		}
		q.RequireRunning = false // it has died just now
	}
	return q, s.remount(ctx, q)
}

// remount mounts a volume again whose server has died, if its device does not hold an older state than was made known.
func (s *nodeServer) remount(ctx context.Context, q mounter.MountRequest) (err error) {
	if q.Anchor, err = s.agent.Anchor(ctx, q.Volume); err != nil {
		return fmt.Errorf("publish volume: %w: %w", errUnavailable, err)
	}
	if err := s.mounter.Mount(ctx, q); err != nil {
		return fmt.Errorf("publish volume: %w", lostIfBlank(err))
	}
	s.groups.forget(q.Volume) // what the server that died had not synced is as it was
	s.agent.Remounted(q.Volume)
	return nil
}

// publish brings the staged volume to the target, see the table of NodePublishVolume in the spec.
func (s *nodeServer) publish(ctx context.Context, c *csi.VolumeCapability, q mounter.MountRequest, target string, readOnly bool) error {
	mounts, err := mountsOf(q.Volume)
	if err != nil {
		return err
	}
	at := filepath.Join(s.root.real, target)
	var staged *mountinfo.Info
	for _, m := range mounts {
		if (m.FSType == mounter.NodeFSType) != (q.Block != nil) {
			continue // where the file of a raw block device is hidden
		}
		switch m.Mountpoint {
		case q.Target:
			staged = m
		case at:
		default:
			if c.GetAccessMode().GetMode() != csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER {
				return fmt.Errorf("%w: the volume is published at another path, and its access mode allows one", errPrecondition)
			}
		}
	}
	if staged == nil {
		return fmt.Errorf("%w: the volume is not staged at that path", errPrecondition)
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
			return fmt.Errorf("%w: the volume is published there with other flags", errIncompatible)
		}
		// The mount of a server that has died.
		s.hook("detach dead")
		if err := detach(parent, name); err != nil {
			return err
		}
	}
	rel, err := s.root.rel("staging_target_path", q.Target)
	if err != nil {
		return err
	}
	from, err := s.root.open("staging_target_path", rel)
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

// nodeOf names the device node that a publication gets. A mount attribute would not keep a device from being written.
func nodeOf(readOnly bool) string {
	if readOnly {
		return mounter.NodeRO
	}
	return mounter.NodeRW
}

// bindDevice brings a device node of the staging directory to parent/name, a file.
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
	// Nobody but root looks into a directory below the kubelet's; the volume's own mode counts once it is mounted.
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

// unpublish takes away all of the volume's mounts at a path, and then the directory or file.
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
		// Nothing that we made: a link, a file, or a directory with something in it. Never removed.
		return fmt.Errorf("%w: target_path is not an empty directory", errInvalid)
	}
	return fmt.Errorf("remove target_path: %w", err)
}

// removeEmptyFile removes the target of a raw block device. What has anything in it was not made here.
func removeEmptyFile(parent *os.File, name string) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(parent.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != 0 {
		return false, nil //nolint:nilerr // whoever removes the directory meets the same error
	}
	if err := unix.Unlinkat(int(parent.Fd()), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return false, fmt.Errorf("remove target_path: %w", err)
	}
	return true, nil
}

// mountedAt finds one of a volume's mounts by path, which it does not open. errNotFound.
func (s *nodeServer) mountedAt(id, path string) error {
	mounts, err := mountsOf(id)
	if err != nil {
		return err
	}
	at := s.root.inMountinfo(path)
	for _, m := range mounts {
		if m.Mountpoint == at {
			return nil
		}
	}
	return fmt.Errorf("%w: the volume is not at volume_path", errNotFound)
}

func (s *nodeServer) NodeGetVolumeStats(ctx context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	if err := checkID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	if err := checkString("volume_path", r.GetVolumePath(), maxPathBytes); err != nil {
		return nil, err
	}
	if err := s.mountedAt(r.GetVolumeId(), r.GetVolumePath()); err != nil {
		return nil, err
	}
	st, err := s.mounter.Stats(ctx, r.GetVolumeId())
	if err != nil {
		return nil, fmt.Errorf("get statistics: %w", err)
	}
	if h, err := s.mounter.Health(ctx, r.GetVolumeId()); err != nil {
		return nil, fmt.Errorf("get statistics: %w", err)
	} else if h.BlockBytes > 0 {
		return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: h.BlockBytes}}}, nil
	}
	resp := &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: st.TotalBytes, Used: st.UsedBytes, Available: st.AvailableBytes}}}
	if st.TotalInodes > 0 {
		resp.Usage = append(resp.Usage, &csi.VolumeUsage{Unit: csi.VolumeUsage_INODES, Total: st.TotalInodes, Used: st.UsedInodes, Available: st.FreeInodes})
	}
	return resp, nil
}

func (s *nodeServer) NodeExpandVolume(ctx context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	if err := checkID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	if err := checkString("volume_path", r.GetVolumePath(), maxPathBytes); err != nil {
		return nil, err
	}
	if err := checkRange(r.GetCapacityRange()); err != nil {
		return nil, err
	}
	if c := r.GetVolumeCapability(); c != nil {
		if err := checkCapability(c, errInvalid); err != nil {
			return nil, err
		}
	}
	if err := s.mountedAt(r.GetVolumeId(), r.GetVolumePath()); err != nil {
		return nil, err
	}
	if c := r.GetVolumeCapability(); c != nil {
		h, err := s.mounter.Health(ctx, r.GetVolumeId())
		if err != nil {
			return nil, fmt.Errorf("expand volume: %w", err)
		}
		if isBlock(c) != (h.BlockBytes > 0) {
			return nil, fmt.Errorf("%w: the volume is mounted as a %s", errInvalid, accessTypeName(h.BlockBytes > 0))
		}
	}
	if err := s.checkKeys(ctx, r.GetVolumeId(), r.GetSecrets()); err != nil {
		return nil, fmt.Errorf("expand volume: %w", err)
	}
	if err := s.self.grow(ctx, r.GetVolumeId(), r.GetCapacityRange()); err != nil {
		return nil, err
	}
	s.hook("grow")
	n, err := s.mounter.Grow(ctx, r.GetVolumeId())
	if err != nil {
		return nil, fmt.Errorf("expand volume: %w", err)
	}
	s.hook("grown")
	if req, limit := r.GetCapacityRange().GetRequiredBytes(), r.GetCapacityRange().GetLimitBytes(); n < req || limit > 0 && n > limit {
		return nil, fmt.Errorf("%w: the device has %d bytes", errOutOfRange, n)
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: n}, nil
}

// checkKeys holds keys that come with a call, but are not needed for it, against the mounted
// volume.
func (s *nodeServer) checkKeys(ctx context.Context, id string, secrets map[string]string) error {
	keys, found, err := keysOf(secrets)
	if err != nil || !found {
		return err
	}
	defer keys.Clear()
	if err := s.mounter.CheckKeys(ctx, id, keys); !errors.Is(err, mounter.ErrInvalid) { // from a mounter of a version that cannot tell
		return err
	}
	return nil
}

func (s *nodeServer) NodeGetVolumeHealth(ctx context.Context, r *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	if err := checkID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	for what, p := range map[string]string{"volume_publish_path": r.GetVolumePublishPath(), "staging_target_path": r.GetStagingTargetPath()} {
		if p != "" {
			if err := checkPath(what, p); err != nil {
				return nil, err
			}
		}
	}
	var conds []backend.Condition
	h, err := s.mounter.Health(ctx, r.GetVolumeId())
	switch {
	case errors.Is(err, mounter.ErrNotMounted):
		_, err := s.backend.Device(ctx, r.GetVolumeId(), nil)
		if errors.Is(err, backend.ErrDamaged) {
			conds = append(conds, backend.Condition{Inaccessible: true, Reason: "DeviceDamaged", Message: err.Error()})
		} else if err != nil && !errors.Is(err, backend.ErrNotAttached) {
			return nil, err
		}
	case err != nil:
		return nil, fmt.Errorf("get health: %w", err)
	default:
		for _, c := range h.Conditions {
			conds = append(conds, backend.Condition(c))
		}
		if c := s.unmountedCondition(r, h); c != nil {
			conds = append(conds, *c)
		}
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: health(r.GetVolumeId(), conds)}, nil
}

// unmountedCondition reports a publication that is the mount of a dead server, or none any more.
func (s *nodeServer) unmountedCondition(r *csi.NodeGetVolumeHealthRequest, h mounter.Info) *backend.Condition {
	if r.GetVolumePublishPath() == "" || !h.Alive {
		return nil
	}
	published, err1 := topAt(s.root.inMountinfo(r.GetVolumePublishPath()))
	staged, err2 := topAt(h.Target)
	if err1 != nil || err2 != nil || staged == nil || published != nil && published.Major == staged.Major && published.Minor == staged.Minor {
		return nil
	}
	return &backend.Condition{Inaccessible: true, Reason: "PublicationStale",
		Message: "the volume was mounted again after its server died; pods that were running then must be restarted"}
}

func (s *nodeServer) NodeGetStorageHealth(ctx context.Context, _ *csi.NodeGetStorageHealthRequest) (*csi.NodeGetStorageHealthResponse, error) {
	resp := &csi.NodeGetStorageHealthResponse{}
	add := func(reason, message string) {
		resp.BackendHealth = append(resp.BackendHealth, &csi.NodeGetStorageHealthResponse_StorageBackendHealth{
			Status: csi.StorageHealthErrorType_STORAGE_UNREACHABLE, Reason: reason, Message: message})
	}
	if err := s.mounter.Ping(ctx); err != nil {
		add("MounterUnreachable", "the mounter does not answer; mounted volumes go on, none can be mounted or unmounted")
	}
	if _, err := s.backend.Info(ctx); err != nil {
		add("BackendUnreachable", "the backend does not answer")
	}
	return resp, nil
}
