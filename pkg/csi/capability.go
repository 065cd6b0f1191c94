package csi

import (
	"fmt"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// mountFlags are the flags that a StorageClass may set: those that apply to a single mount.
var mountFlags = []string{"ro", "rw", "nosuid", "nodev", "noexec", "noatime", "relatime", "nodiratime", "strictatime"}

// checkCapability returns errInvalid for a malformed capability and unsupported for one that the
// driver does not have.
func checkCapability(c *csi.VolumeCapability, unsupported error) error {
	if c == nil {
		return fmt.Errorf("%w: volume_capability is missing", errInvalid)
	}
	if c.GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_UNKNOWN {
		return fmt.Errorf("%w: access_mode is missing", errInvalid)
	}
	switch c.GetAccessType().(type) {
	case *csi.VolumeCapability_Mount:
	case *csi.VolumeCapability_Block:
	default:
		return fmt.Errorf("%w: access_type is missing", errInvalid)
	}
	switch c.GetAccessMode().GetMode() {
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER, csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:
	default:
		return fmt.Errorf("%w: ReadWriteMany and ReadOnlyMany are not supported, because a volume can be attached to only one node; use ReadWriteOnce or ReadWriteOncePod", unsupported)
	}
	m := c.GetMount()
	if t := m.GetFsType(); t != "" && t != fsType {
		return fmt.Errorf("%w: fs_type must be empty or %s", unsupported, fsType)
	}
	if _, err := parseGroup(m.GetVolumeMountGroup()); err != nil {
		return err
	}
	for _, f := range m.GetMountFlags() {
		if !slices.Contains(mountFlags, f) { // do not repeat the flag: it may contain anything
			return fmt.Errorf("%w: unsupported mount flag; supported flags are %s", unsupported, strings.Join(mountFlags, ", "))
		}
	}
	return nil
}

// parseCapabilities checks all capabilities of a new volume and tells whether it is a raw block
// device. A volume keeps that type from its creation on.
func parseCapabilities(list []*csi.VolumeCapability) (block bool, err error) {
	if len(list) == 0 {
		return false, fmt.Errorf("%w: volume_capabilities are missing", errInvalid)
	}
	for _, c := range list {
		if err := checkCapability(c, errInvalid); err != nil {
			return false, err
		}
	}
	for _, c := range list {
		if isBlock(c) != isBlock(list[0]) {
			return false, fmt.Errorf("%w: volume_capabilities ask for both block and mount access; a volume has only one access type", errInvalid)
		}
	}
	return isBlock(list[0]), nil
}

// isBlock tells whether a capability asks for a raw block device.
func isBlock(c *csi.VolumeCapability) bool { return c.GetBlock() != nil }

func isReader(c *csi.VolumeCapability) bool {
	return c.GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
}

// contextAccessType is set in the volume_context of raw block volumes. A StorageClass cannot set
// it.
const (
	contextAccessType = "accessType"
	accessBlock       = "block"
	// contextKeyVolume is set in the volume_context of a copy. It names the volume whose key opens
	// the copy until the copy's own key is rotated.
	contextKeyVolume = "keyVolume"
)

// isBlockContext tells whether a volume with this context is a raw block device.
func isBlockContext(m map[string]string) bool { return m[contextAccessType] == accessBlock }

// checkAccessType refuses to use a file system as a raw block device, or the reverse.
func checkAccessType(c *csi.VolumeCapability, context map[string]string, unsupported error) error {
	if isBlock(c) != isBlockContext(context) {
		return fmt.Errorf("%w: the volume was created as a %s", unsupported, accessTypeName(isBlockContext(context)))
	}
	return nil
}

func accessTypeName(block bool) string {
	if block {
		return "raw block device"
	}
	return "file system"
}
