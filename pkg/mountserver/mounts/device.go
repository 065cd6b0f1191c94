package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sealvol/sealvol/pkg/volume/device"
)

// BehindLoopError refuses an image file that is in use as a loop device. It is device.ErrInUse.
type BehindLoopError struct {
	Path string // the image file
	Loop string // the loop device
}

func (e *BehindLoopError) Error() string {
	return fmt.Sprintf("%s: %v: it is behind %s", e.Path, device.ErrInUse, e.Loop)
}

// Unwrap makes errors.Is(err, device.ErrInUse) true.
func (e *BehindLoopError) Unwrap() error { return device.ErrInUse }

// OpenDevice opens a device alone. Other than device.Open it also sees that an image file is in use
// as a loop device, which the file's lock does not tell: BehindLoopError.
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

// InUse tries for a moment what a mount would do.
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

// loopOf returns the loop device that an image file is behind, "" if there is none.
func loopOf(path string) (string, error) {
	fi, err := os.Stat(path)
	if err != nil || !fi.Mode().IsRegular() {
		return "", err
	}
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			continue // detached meanwhile
		}
		if of, err := os.Stat(strings.TrimSuffix(string(b), "\n")); err == nil && os.SameFile(fi, of) {
			return "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(n))), nil
		}
	}
	return "", err
}
