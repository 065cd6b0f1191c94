package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/sealvol/sealvol/pkg/atomicfile"
	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mountserver"
	"github.com/sealvol/sealvol/pkg/mountserver/mounts"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/doublecrypt"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// isV1 tells whether a device holds a volume of format v1. It is asked before
// format v2 is, which such a device may have held earlier.
func isV1(dev device.Device) (bool, error) { return doublecrypt.IsVolume(dev) }

// openV1 opens a volume of format v1 for reading.
func openV1(dev device.Device, path string, cred crypto.Credential) (*mountserver.V1, error) {
	v, err := mountserver.OpenV1(dev, cred, doublecrypt.Options{ReadOnly: true, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)).With("device", path)})
	if err != nil {
		return nil, v1Error(fmt.Errorf("%s: %w", path, err))
	}
	return v, nil
}

// v1Error adds to an error of opening a volume what has to do with format v1.
func v1Error(err error) error {
	switch {
	case errors.Is(err, mountserver.ErrV1Key), errors.Is(err, mountserver.ErrV1Option):
		return usageError(err)
	case errors.Is(err, mountserver.ErrV1Damaged):
		return withHint(err, "`sealvol fsck` names what is damaged; what is whole can be mounted with --read-only, or copied out: sealvol cp")
	}
	return err
}

// openFS opens a volume of either format without changing anything on its
// device. end closes both.
func openFS(path string, key *keyFlags) (fs vfs.FS, end func(), err error) {
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
		return nil, nil, err
	}
	return v, func() {
		discard(v)
		discard(dev)
	}, nil
}

type closingFS interface {
	vfs.FS
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

// mkfsV1 makes a volume of format v1.
func mkfsV1(w io.Writer, o *mkfsOptions, path string) (err error) {
	cred, err := o.key.credential()
	if err != nil {
		return err
	}
	defer cred.Erase()
	key, err := crypto.DoublecryptKeyOf(cred)
	if err != nil {
		return usageError(err)
	}
	defer key.Erase()
	made, err := o.image(path)
	if err != nil {
		return err
	}
	defer func() {
		if made && err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	dev, err := openDevice(path, false)
	if err != nil {
		return err
	}
	defer discard(dev) // Format flushed it
	if !o.force {
		if blank, what, err := volume.IsBlank(dev); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		} else if !blank {
			return fmt.Errorf("%s: %w: it holds %s", path, volume.ErrNotEmpty, what)
		}
	}
	if err := wipe(dev, o.fill); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := doublecrypt.Format(dev, key, int(o.blockSize), uint64(o.bytes)/uint64(o.blockSize), doublecrypt.Options{}); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if made {
		if err := atomicfile.SyncDir(filepath.Dir(path)); err != nil {
			return err
		}
	}
	info, err := doublecrypt.ReadInfo(dev)
	if err != nil {
		return fmt.Errorf("%s: read the new volume back: %w", path, err)
	}
	size := int64(info.TotalBlocks) * int64(info.BlockBytes)
	if o.json {
		return writeJSON(w, struct {
			Device     string `json:"device"`
			Format     string `json:"format"`
			SizeBytes  int64  `json:"sizeBytes"`
			BlockBytes int    `json:"blockBytes"`
		}{path, "doublecrypt", size, info.BlockBytes})
	}
	_, err = fmt.Fprintf(w, "%s: new volume of format v1 (doublecrypt), %s in blocks of %s\n", path, formatSize(size), formatSize(int64(info.BlockBytes)))
	return err
}

// wipe takes away what an earlier volume of format v2 could be known by: its
// second header would still open. With fill, all of the device gets random bytes.
func wipe(dev device.Device, fill bool) error {
	if fill {
		bar := newProgress("fill")
		defer bar.end()
		return doublecrypt.FillRandom(dev, nil, bar.set)
	}
	size, err := dev.Size()
	if err != nil {
		return err
	}
	zeros := device.AlignedBytes(int(min(size, 4<<20)) / device.SectorBytes * device.SectorBytes)
	if _, err := dev.WriteAt(zeros, 0); err != nil {
		return err
	}
	return dev.Sync()
}

// checkV1 is fsck of format v1, in the report of format v2.
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
	r.Counts.UsedSectors, r.Counts.FreeSectors = sectors(c.Counts.UsedBlocks), sectors(c.Counts.FreeBlocks)
	return r, nil
}

// v1Report is the JSON of info for format v1.
type v1Report struct {
	Device        string   `json:"device"`
	DeviceBytes   int64    `json:"deviceBytes"`
	Format        string   `json:"format"`
	FormatVersion int      `json:"formatVersion"`
	BlockBytes    int      `json:"blockBytes"`
	TotalBlocks   uint64   `json:"totalBlocks"`
	MaxFileBytes  uint64   `json:"maxFileBytes"`
	Roots         []v1Root `json:"roots"`
	InUse         bool     `json:"inUse"`
	MountedOn     []string `json:"mountedOn,omitempty"`
	State         *v1State `json:"state,omitempty"` // with a key
}

type v1Root struct {
	Slot       string `json:"slot"`
	Valid      bool   `json:"valid"`
	Generation uint64 `json:"generation"`
}

type v1State struct {
	Generation uint64 `json:"generation"`
	Slot       string `json:"slot"`
	Fallback   string `json:"fallback,omitempty"` // why the newer root is not used
	UsedBytes  int64  `json:"usedBytes"`
	FreeBytes  int64  `json:"freeBytes"`
	Inodes     uint64 `json:"inodes"`
	Problems   int    `json:"problems"`
}

func inspectV1(dev device.Device, path string, cred crypto.Credential) (r *v1Report, err error) {
	info, err := doublecrypt.ReadInfo(dev)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	r = &v1Report{Device: path, Format: "doublecrypt", FormatVersion: 1, BlockBytes: info.BlockBytes, TotalBlocks: info.TotalBlocks, MaxFileBytes: info.MaxFileBytes}
	for _, s := range info.Slots {
		r.Roots = append(r.Roots, v1Root(s))
	}
	if r.DeviceBytes, err = dev.Size(); err != nil {
		return nil, err
	}
	if r.InUse, err = inUse(path); err != nil {
		return nil, err
	}
	if r.InUse {
		if r.MountedOn, err = mounts.Of(path); err != nil {
			return nil, err
		}
	}
	if cred == nil {
		return r, nil
	}
	v, err := openV1(dev, path, cred)
	if err != nil {
		return nil, err
	}
	defer discard(v)
	o, s := v.Opened(), v.Statistics()
	r.State = &v1State{Generation: o.Generation, Slot: o.Slot, Inodes: s.Inodes, Problems: o.DamageCount,
		UsedBytes: int64(s.TotalBlocks-s.FreeBlocks) * int64(s.BlockBytes), FreeBytes: int64(s.FreeBlocks) * int64(s.BlockBytes)}
	if o.Fallback != nil {
		r.State.Fallback = o.Fallback.Error()
	}
	return r, nil
}

func (r *v1Report) text() string {
	var b bytes.Buffer
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-16s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	line("Device", "%s (%s)", r.Device, formatSize(r.DeviceBytes))
	line("Cipher", "chacha20poly1305; nothing protects against someone who writes to the device")
	line("Format", "v1 (doublecrypt), %d blocks of %s", r.TotalBlocks, formatSize(int64(r.BlockBytes)))
	for _, s := range r.Roots {
		if s.Valid {
			line("Root slot "+s.Slot, "generation %d", s.Generation)
		} else {
			line("Root slot "+s.Slot, "empty")
		}
	}
	switch {
	case len(r.MountedOn) > 0:
		line("In use", "mounted on %s", printable(r.MountedOn[0]))
	case r.InUse:
		line("In use", "yes, opened by another process")
	default:
		line("In use", "no")
	}
	if s := r.State; s != nil {
		line("Used", "%s, %s free, %d inodes", formatSize(s.UsedBytes), formatSize(s.FreeBytes), s.Inodes)
		line("Generation", "%d, in root slot %s", s.Generation, s.Slot)
		if s.Fallback != "" {
			line("Newer root", "does not verify: %s", s.Fallback)
		}
		if s.Problems > 0 {
			line("Damage", "%d problems; sealvol fsck lists them", s.Problems)
		}
	}
	return b.String()
}
