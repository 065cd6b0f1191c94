package csi

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/mounter"
)

// Parameters of a StorageClass, which become the volume_context.
const (
	paramRecordSize = "recordSize"
	paramSuite      = "suite"
)

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

// classParameters checks the parameters of a StorageClass, and returns those that become the volume's
// context, and those that are the backend's.
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

// splitParameters parts those of the backend from ours.
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
