package vfs

import (
	"errors"
	"strings"
)

// LabelXattr is the attribute of the root directory that holds the label of a volume.
const LabelXattr = "trusted.sealvol.label"

// MaxLabelBytes is the maximum length of a label: FSLABEL_MAX of Linux without the NUL.
const MaxLabelBytes = 255

// Label returns the label of a volume, or "" if it has none.
func Label(fs Reader) (string, error) {
	b, err := fs.GetXattr(RootIno, LabelXattr)
	if errors.Is(err, ErrNoXattr) {
		return "", nil
	}
	return string(b), err
}

// SetLabel sets the label of a volume. "" removes it.
func SetLabel(fs FS, req *Req, label string) error {
	if len(label) > MaxLabelBytes || strings.ContainsAny(label, "\x00\n") {
		return ErrInvalid
	}
	if label != "" {
		return fs.SetXattr(req, RootIno, LabelXattr, []byte(label), 0)
	}
	err := fs.RemoveXattr(req, RootIno, LabelXattr)
	if errors.Is(err, ErrNoXattr) {
		return nil
	}
	return err
}
