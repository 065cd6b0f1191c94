package convert

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/doublecrypt"
	"github.com/sealvol/sealvol/pkg/volume/vfs/walk"
)

// Mark is an attribute of the root directory while a conversion is unfinished. Its value identifies
// the state of the source volume.
const Mark = "trusted.sealvol.convert"

var (
	// ErrDamaged means that the source volume is damaged, so it cannot be converted completely.
	ErrDamaged = errors.New("the volume is damaged and cannot be converted completely")
	// ErrHidden means that the source has names that no other file system supports.
	ErrHidden = errors.New("entries are named \".\" or \"..\", which no other file system supports; rename them with a program built on doublecrypt-core")
)

// Options of Convert.
type Options struct {
	// Recipient returns the key of the new volume, and a function that erases it.
	Recipient func() (r crypto.Recipient, erase func(), err error)
	// Credential returns the same key, to open the new volume. It is erased after each use.
	Credential func() (crypto.Credential, error)
	// SizeBytes is the size of the new volume. 0 means the whole device.
	SizeBytes int64
	// Progress, if not nil, is called with the number of bytes read and of all bytes to read. Each
	// byte is read twice.
	Progress func(done, total uint64)
}

// Result is the result of Convert.
type Result struct {
	Entries int    // files and directories
	Bytes   uint64 // size of all files
}

// Check returns ErrDamaged or ErrHidden for a source that cannot be converted completely.
func Check(src *doublecrypt.Volume) error {
	switch r := src.Opened(); {
	case r.DamageCount > 0:
		return ErrDamaged
	case r.Hidden > 0:
		return fmt.Errorf("%d %w", r.Hidden, ErrHidden)
	}
	return nil
}

// Convert copies src, which is open for reading, to a new volume on dev, and compares both. The
// device must be blank or contain an unfinished conversion of the same volume.
func Convert(src *doublecrypt.Volume, dev device.Device, o Options) (Result, error) {
	if err := Check(src); err != nil {
		return Result{}, err
	}
	if err := o.prepare(dev); err != nil {
		return Result{}, err
	}
	c := &converter{src: src, progress: o.Progress, buf: make([]byte, walk.ReadBytes), other: make([]byte, walk.ReadBytes)}
	if err := c.count(); err != nil {
		return Result{}, fmt.Errorf("source volume: %w", err)
	}
	state := src.Opened().Checksum
	if err := o.with(dev, func(v *volume.Volume) error { return c.copyInto(v, hex.EncodeToString(state[:])) }); err != nil {
		return Result{}, err
	}
	// The new volume is opened again, so that the comparison reads from the device.
	if err := o.with(dev, c.verify); err != nil {
		return Result{}, err
	}
	return Result{c.entries, c.bytes}, nil
}

// prepare creates the new volume, unless an earlier run has created it.
func (o *Options) prepare(dev device.Device) error {
	blank, what, err := volume.IsBlank(dev)
	if err != nil {
		return err
	}
	if !blank {
		if _, err := volume.ReadHeader(dev); err != nil {
			return fmt.Errorf("%w: it holds %s", volume.ErrNotEmpty, what)
		}
		return nil
	}
	recipient, erase, err := o.Recipient()
	if err != nil {
		return err
	}
	defer erase()
	return volume.Format(dev, volume.FormatOptions{Recipient: recipient, SizeBytes: o.SizeBytes, RootUID: owner.UID, RootGID: owner.GID})
}

// with opens the new volume and calls f.
func (o *Options) with(dev device.Device, f func(v *volume.Volume) error) error {
	cred, err := o.Credential()
	if err != nil {
		return err
	}
	defer cred.Erase()
	v, err := volume.Open(dev, volume.Options{Credential: cred, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	return errors.Join(f(v), v.Close())
}
