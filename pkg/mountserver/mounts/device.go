package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sealvol/sealvol/pkg/volume/device"
)

// BehindLoopError says that an image file is in use as a loop device. It wraps device.ErrInUse.
type BehindLoopError struct {
	Path string // the image file
	Loop string // the loop device
}

func (e *BehindLoopError) Error() string {
	return fmt.Sprintf("%s: %v: the loop device %s uses it", e.Path, device.ErrInUse, e.Loop)
}

// Unwrap makes errors.Is(err, device.ErrInUse) true.
func (e *BehindLoopError) Unwrap() error { return device.ErrInUse }

// OpenDevice opens a device exclusively. Unlike device.Open, it also detects that an image file is
// in use as a loop device, which the file's lock does not show: BehindLoopError.
func OpenDevice(path string, readOnly bool) (*device.File, error) {
	dev, err := device.Open(path, device.OpenOptions{ReadOnly: readOnly})
	if err != nil {
		return nil, err
	}
	loop, err := loopOf(path)
	if err == nil && loop != "" {
		err = &BehindLoopError{path, loop}
	}
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return dev, nil
}

// InUse briefly opens a device as a mount would, to find out whether it is in use.
func InUse(path string) (bool, error) {
	d, err := OpenDevice(path, true)
	if errors.Is(err, device.ErrInUse) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, d.Close()
}

// loopOf returns the loop device that uses an image file, or "".
func loopOf(path string) (string, error) {
	fi, err := os.Stat(path)
	if err != nil || !fi.Mode().IsRegular() {
		return "", err
	}
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			continue // detached in the meantime
		}
		if of, err := os.Stat(strings.TrimSuffix(string(b), "\n")); err == nil && os.SameFile(fi, of) {
			return "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(n))), nil
		}
	}
	return "", err
}
