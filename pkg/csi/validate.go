package csi

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/mounter"
)

const (
	maxStringBytes = 128     // spec, Size Limits: the general limit
	maxNodeIDBytes = 256     // spec, NodeGetInfoResponse.node_id
	maxMapBytes    = 4 << 10 // spec, Size Limits: map<string, string>
	maxPathBytes   = 4095    // PATH_MAX less the NUL

	fsType = mounter.FSType
)

// banned are the characters that the spec forbids in names (CreateVolumeRequest.name). Ids and paths of ours never have any.
func banned(r rune) bool {
	return r <= 0x08 || r == 0x0b || r == 0x0c || r >= 0x0e && r <= 0x1f || r >= 0x7f && r <= 0x9f
}

func checkString(what, s string, most int) error {
	switch {
	case s == "":
		return fmt.Errorf("%w: %s is missing", errInvalid, what)
	case len(s) > most:
		return fmt.Errorf("%w: %s is longer than %d bytes", errInvalid, what, most)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, banned):
		return fmt.Errorf("%w: %s has control characters", errInvalid, what)
	}
	return nil
}

func checkID(id string) error { return checkString("volume_id", id, maxStringBytes) }

// checkPath is about the form alone; openat2 sees to the links.
func checkPath(what, p string) error {
	if err := checkString(what, p, maxPathBytes); err != nil {
		return err
	}
	if !strings.HasPrefix(p, "/") {
		return fmt.Errorf("%w: %s is not absolute", errInvalid, what)
	}
	if slices.Contains(strings.Split(p, "/"), "..") {
		return fmt.Errorf("%w: %s has a .. component", errInvalid, what)
	}
	return nil
}

func checkMap(what string, m map[string]string) error {
	n := 0
	for k, v := range m {
		n += len(k) + len(v)
	}
	if n > maxMapBytes {
		return fmt.Errorf("%w: %s is longer than %d bytes", errInvalid, what, maxMapBytes)
	}
	return nil
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

func checkCapabilities(list []*csi.VolumeCapability) error {
	if len(list) == 0 {
		return fmt.Errorf("%w: volume_capabilities are missing", errInvalid)
	}
	for _, c := range list {
		if err := checkCapability(c, errInvalid); err != nil {
			return err
		}
	}
	return nil
}

func supported(list []*csi.VolumeCapability) bool { return checkCapabilities(list) == nil }

// isBlock tells whether a volume is to be a raw block device.
func isBlock(c *csi.VolumeCapability) bool { return c.GetBlock() != nil }

// oneAccessType finds whether all capabilities are of raw block devices: a volume is that or a file system from its creation on.
func oneAccessType(list []*csi.VolumeCapability) (block bool, err error) {
	for _, c := range list {
		if isBlock(c) != isBlock(list[0]) {
			return false, fmt.Errorf("%w: a volume is a raw block device or a file system, not both", errInvalid)
		}
	}
	return isBlock(list[0]), nil
}

func isReader(c *csi.VolumeCapability) bool {
	return c.GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
}

// Parameters of a StorageClass, which become the volume_context.
const (
	paramRecordSize = "recordSize"
	paramSuite      = "suite"
)

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

// suiteOf is the suite that parameters stand for.
func suiteOf(params map[string]string) string {
	if s := params[paramSuite]; s != "" {
		return s
	}
	return "xchacha20poly1305"
}

// added by Kubernetes, to parameters by the provisioner and to contexts by provisioner and kubelet. Names of
// objects; of no use here.
func addedByKubernetes(key string) bool {
	return strings.HasPrefix(key, "csi.storage.k8s.io/") || strings.HasPrefix(key, "storage.kubernetes.io/")
}

// purposeOf reads what a provisioner tells with --extra-create-metadata.
func purposeOf(params map[string]string) backend.Purpose {
	var p backend.Purpose
	for _, k := range []string{"pvc/name", "pvc/namespace", "pv/name", "volumesnapshot/name", "volumesnapshot/namespace", "volumesnapshotcontent/name"} {
		if v := params["csi.storage.k8s.io/"+k]; v != "" {
			if p == nil {
				p = backend.Purpose{}
			}
			p[k] = v
		}
	}
	return p
}

// parseContext checks a volume_context and returns what is ours of it and how to format. An error names no key.
func parseContext(m map[string]string) (map[string]string, *mounter.Format, error) {
	return parse("volume_context", m, false, true)
}

// parseParameters checks the parameters of a StorageClass.
func parseParameters(m map[string]string) (map[string]string, *mounter.Format, error) {
	return parse("parameters", m, true, false)
}

// parse is both: context allows what the driver itself has added, an error names a key only if named.
func parse(what string, m map[string]string, named, context bool) (map[string]string, *mounter.Format, error) {
	if err := checkMap(what, m); err != nil {
		return nil, nil, err
	}
	var ours map[string]string
	f := &mounter.Format{}
	for k, v := range m {
		var err error
		switch {
		case addedByKubernetes(k):
			continue
		case k == paramRecordSize:
			err = checkRecordSize(v)
		case k == paramSuite && (v == "xchacha20poly1305" || v == "xaes256gcm"):
			f.Suite = v
		case k == paramSuite:
			err = fmt.Errorf("%w: %s: %s must be xchacha20poly1305 or xaes256gcm", errInvalid, what, k)
		case context && k == contextAccessType && v == accessBlock:
		case context && k == contextKeyVolume && v != "" && len(v) <= maxStringBytes:
		case named && len(k) <= maxStringBytes && utf8.ValidString(k):
			err = fmt.Errorf("%w: %s has an unknown key %q", errInvalid, what, k)
		default:
			err = fmt.Errorf("%w: %s has an unknown key", errInvalid, what)
		}
		if err != nil {
			return nil, nil, err
		}
		if ours == nil {
			ours = map[string]string{}
		}
		ours[k] = v
	}
	return ours, f, nil
}

// checkRecordSize accepts the only record size of this version.
func checkRecordSize(s string) error {
	if s != "64KiB" && s != "65536" {
		return fmt.Errorf("%w: %s must be 64KiB: this version knows no other", errInvalid, paramRecordSize)
	}
	return nil
}

// Keys of the stage and publish secret; docs/csi.md.
const (
	secretKEK      = "kek"
	secretPrevious = "kek-previous"
)

// keysOf reads the keys of a secret; found is false if it has none.
func keysOf(secrets map[string]string) (keys mounter.Keys, found bool, err error) {
	current, ok := secrets[secretKEK]
	if !ok {
		return mounter.Keys{}, false, nil
	}
	kek, err := parseKey(secretKEK, current)
	if err != nil {
		return mounter.Keys{}, true, err
	}
	var previous []byte
	if p, ok := secrets[secretPrevious]; ok && p != "" {
		if previous, err = parseKey(secretPrevious, p); err != nil {
			clear(kek)
			return mounter.Keys{}, true, err
		}
	}
	keys, err = mounter.NewKeys(kek, previous)
	return keys, true, err
}

// parseKey reads 32 bytes, or 64 hexadecimal digits with or without a line end after them.
func parseKey(name, s string) ([]byte, error) {
	if len(s) == mounter.KeyBytes {
		return []byte(s), nil
	}
	b, err := hex.DecodeString(strings.TrimSuffix(strings.TrimSuffix(s, "\n"), "\r"))
	if err != nil || len(b) != mounter.KeyBytes {
		clear(b)
		return nil, fmt.Errorf("%w: %s must be %d bytes or %d hexadecimal digits", errSecrets, name, mounter.KeyBytes, 2*mounter.KeyBytes)
	}
	return b, nil
}
