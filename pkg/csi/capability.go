package csi

import (
	"fmt"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// mountFlags that a StorageClass may ask for: those that can be set on one mount.
var mountFlags = []string{"ro", "rw", "nosuid", "nodev", "noexec", "noatime", "relatime", "nodiratime", "strictatime"}

// checkCapability tells a malformed capability (errInvalid) from one we do not have (unsupported).
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
		return fmt.Errorf("%w: a volume is on one node at a time; ReadWriteMany and ReadOnlyMany are not supported", unsupported)
	}
	m := c.GetMount()
	if t := m.GetFsType(); t != "" && t != fsType {
		return fmt.Errorf("%w: fs_type must be empty or %s", unsupported, fsType)
	}
	if _, err := parseGroup(m.GetVolumeMountGroup()); err != nil {
		return err
	}
	for _, f := range m.GetMountFlags() {
		if !slices.Contains(mountFlags, f) { // not named: a flag may hold anything
			return fmt.Errorf("%w: mount flags may be %s", unsupported, strings.Join(mountFlags, ", "))
		}
	}
	return nil
}

// parseCapabilities checks all capabilities of a new volume, and tells whether it is to be a raw block
// device: it is that or a file system from its creation on.
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
			return false, fmt.Errorf("%w: a volume is a raw block device or a file system, not both", errInvalid)
		}
	}
	return isBlock(list[0]), nil
}

// isBlock tells whether a volume is to be a raw block device.
func isBlock(c *csi.VolumeCapability) bool { return c.GetBlock() != nil }

func isReader(c *csi.VolumeCapability) bool {
	return c.GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
}

// contextAccessType is in the volume_context of what is no file system; no StorageClass sets it.
const (
	contextAccessType = "accessType"
	accessBlock       = "block"
	// contextKeyVolume is in the context of a copy: the volume whose key opens it, until that of the copy is rotated.
	contextKeyVolume = "keyVolume"
)

// isBlockContext tells whether a volume with this context is a raw block device.
func isBlockContext(m map[string]string) bool { return m[contextAccessType] == accessBlock }

// checkAccessType refuses to use a volume as what it is not.
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
