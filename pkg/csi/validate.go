package csi

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sealvol/sealvol/pkg/mounter"
)

const (
	maxStringBytes = 128     // spec, Size Limits: the general limit
	maxNodeIDBytes = 256     // spec, NodeGetInfoResponse.node_id
	maxMapBytes    = 4 << 10 // spec, Size Limits: map<string, string>
	maxPathBytes   = 4095    // PATH_MAX less the NUL

	fsType = mounter.FSType
)

// banned tells whether the spec forbids a character in names (CreateVolumeRequest.name). The
// driver's own ids and paths never have such characters.
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

// checkPath checks only the form of a path; openat2 handles links.
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
