package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mountserver"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/doublecrypt"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// isV1 tells whether a device holds a volume of format v1. Check this first: such a device may
// still contain parts of an earlier volume of format v2.
func isV1(dev device.Device) (bool, error) { return doublecrypt.IsVolume(dev) }

// openV1 opens a volume of format v1 for reading.
func openV1(dev device.Device, path string, cred crypto.Credential) (*mountserver.V1, error) {
	v, err := mountserver.OpenV1(dev, cred, doublecrypt.Options{ReadOnly: true, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)).With("device", path)})
	if err != nil {
		return nil, v1Error(fmt.Errorf("%s: %w", path, err))
	}
	return v, nil
}

// v1Error adds the exit code or hint of errors that concern format v1.
func v1Error(err error) error {
	switch {
	case errors.Is(err, mountserver.ErrV1Key), errors.Is(err, mountserver.ErrV1Option):
		return usageError(err)
	case errors.Is(err, mountserver.ErrV1Damaged):
		return withHint(err, "run `sealvol fsck` to list the damage; mount the volume with --read-only or run `sealvol cp` to read the intact files")
	}
	return err
}

// openFS opens a volume of either format for reading. It writes nothing to the device. end closes
// both.
func openFS(path string, key *keyFlags) (fs vfs.Reader, end func(), err error) {
	cred, err := key.credential()
	if err != nil {
		return nil, nil, err
	}
	defer cred.Erase()
	dev, err := openDevice(path, true)
	if err != nil {
		return nil, nil, err
	}
	v, err := openEither(dev, path, cred)
	if err != nil {
		discard(dev)
		return nil, nil, key.explain(err)
	}
	return v, func() {
		discard(v)
		discard(dev)
	}, nil
}

type closingFS interface {
	vfs.Reader
	io.Closer
}

func openEither(dev device.Device, path string, cred crypto.Credential) (closingFS, error) {
	switch v1, err := isV1(dev); {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	case v1:
		return openV1(dev, path, cred)
	}
	return openOn(dev, path, cred, volume.Options{ReadOnly: true})
}

// checkV1 checks a volume of format v1, and reports in the form of format v2.
func checkV1(dev device.Device, path string, cred crypto.Credential, o *fsckOptions) (*check.Report, error) {
	key, err := crypto.DoublecryptKeyOf(cred)
	if err != nil {
		return nil, usageError(fmt.Errorf("%s: %w", path, err))
	}
	defer key.Erase()
	bar := newProgress("check")
	defer bar.end()
	c, err := doublecrypt.Check(dev, key, doublecrypt.CheckOptions{Data: !o.metadataOnly, Progress: bar.set})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	r := &check.Report{Clean: c.Clean, Generation: c.Generation, Total: c.Total}
	for _, p := range c.Problems {
		r.Problems = append(r.Problems, check.Problem(p))
	}
	for _, p := range c.Notes {
		r.Notes = append(r.Notes, check.Problem(p))
	}
	sectors := func(blocks uint64) uint64 { return blocks * uint64(c.Counts.BlockBytes) / sectorBytes }
	r.Counts.Inodes, r.Counts.Names, r.Counts.Extents = c.Counts.Inodes, c.Counts.Names, c.Counts.Extents
	r.Counts.UsedBlocks, r.Counts.FreeBlocks = sectors(c.Counts.UsedBlocks), sectors(c.Counts.FreeBlocks)
	return r, nil
}
