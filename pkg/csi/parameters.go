package csi

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/mounter"
)

// These parameters of a StorageClass become the volume_context.
const (
	paramRecordSize = "recordSize"
	paramSuite      = "suite"
)

// suiteOf returns the suite that the parameters select.
func suiteOf(params map[string]string) string {
	if s := params[paramSuite]; s != "" {
		return s
	}
	return "xchacha20poly1305"
}

// addedByKubernetes tells whether Kubernetes added a key: the provisioner adds names of objects to
// parameters and contexts, the kubelet to contexts. The driver ignores them.
func addedByKubernetes(key string) bool {
	return strings.HasPrefix(key, "csi.storage.k8s.io/") || strings.HasPrefix(key, "storage.kubernetes.io/")
}

// purposeOf reads the names that a provisioner sends with --extra-create-metadata.
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

// parseContext checks a volume_context. It returns the driver's own keys and how to format the
// volume. Its errors name no key.
func parseContext(m map[string]string) (map[string]string, *mounter.Format, error) {
	return parse("volume_context", m, false, true)
}

// classParameters checks the parameters of a StorageClass. It returns those for the volume's
// context and those for the backend.
func (s *controllerServer) classParameters(m map[string]string, block bool) (ours, class map[string]string, err error) {
	ours, class = s.splitParameters(m)
	if ours, _, err = parse("parameters", ours, true, false); err != nil {
		return nil, nil, err
	}
	if block {
		if ours == nil {
			ours = map[string]string{}
		}
		ours[contextAccessType] = accessBlock
	}
	return ours, class, nil
}

// parse checks parameters or a context. context allows keys that the driver itself adds; errors
// name the key only if named is set.
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
			err = fmt.Errorf("%w: unknown key %q in %s", errInvalid, k, what)
		default:
			err = fmt.Errorf("%w: unknown key in %s", errInvalid, what)
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

// checkRecordSize accepts the only record size that this version has.
func checkRecordSize(s string) error {
	if s != "64KiB" && s != "65536" {
		return fmt.Errorf("%w: %s must be 64KiB, the only value that this version supports", errInvalid, paramRecordSize)
	}
	return nil
}

// splitParameters separates the driver's parameters from those of the backend.
func (s *controllerServer) splitParameters(m map[string]string) (ours, class map[string]string) {
	if s.tunable == nil {
		return m, nil
	}
	for k, v := range m {
		to := &ours
		if own, _ := s.tunable.Parameter(k); own {
			to = &class
		}
		if *to == nil {
			*to = map[string]string{}
		}
		(*to)[k] = v
	}
	return ours, class
}

// mutableParameters checks the parameters of a VolumeAttributesClass.
func (s *controllerServer) mutableParameters(m map[string]string) (map[string]string, error) {
	if err := checkMap("mutable_parameters", m); err != nil || len(m) == 0 {
		return nil, err
	}
	if s.tunable == nil {
		return nil, fmt.Errorf("%w: mutable_parameters are not supported", errInvalid)
	}
	for k := range m {
		if _, mutable := s.tunable.Parameter(k); mutable {
			continue
		}
		if len(k) > maxStringBytes || !utf8.ValidString(k) {
			return nil, fmt.Errorf("%w: mutable_parameters have an unknown key", errInvalid)
		}
		return nil, fmt.Errorf("%w: %q cannot be changed by a VolumeAttributesClass", errInvalid, k)
	}
	return m, nil
}
