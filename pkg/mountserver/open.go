package mountserver

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/doublecrypt"
)

// openVolume opens a volume of either format, and formats a blank device if that is allowed.
func (s *Server) openVolume(ctx context.Context) error {
	o := &s.opts
	// Check for v1 before v2: a device that now holds v1 may have held v2 before, and an old copy
	// of the v2 header could still open.
	v1, err := doublecrypt.IsVolume(o.Device)
	if err != nil {
		return err
	}
	if v1 {
		return s.openV1()
	}
	if err := o.formatBlank(); err != nil {
		return err
	}
	opts := volume.Options{ReadOnly: o.ReadOnly, Memory: int(o.MemoryBytes), Discard: o.Discard, Anchor: o.Anchor,
		Instance: o.Instance, Own: o.RejectCopy, Log: s.log}
	err = mounter.ErrNoKey
	for _, k := range o.Keys {
		opts.Credential = k
		if s.vol, err = volume.Open(o.Device, opts); err == nil {
			s.base, s.name = s.vol, s.vol.ID().String()
			s.takeKeys(ctx)
			return nil
		}
		if !errors.Is(err, volume.ErrWrongKey) {
			break
		}
	}
	s.vol = nil
	return WithContents(o.Device, err)
}

// WithContents adds to an error of volume.Open what the device holds instead of a volume. The error
// for a blank device is also mounter.ErrBlank.
func WithContents(dev device.Device, err error) error {
	if !errors.Is(err, volume.ErrNotSealvol) || errors.Is(err, volume.ErrOtherVolume) {
		return err
	}
	blank, what, perr := volume.IsBlank(dev)
	switch {
	case perr != nil:
		return err
	case blank:
		return &marked{fmt.Errorf("%w: it is blank", err), mounter.ErrBlank}
	}
	return fmt.Errorf("%w: it holds %s", err, what)
}

// marked is an error that also matches another one, whose text would add nothing.
type marked struct {
	error
	also error
}

func (e *marked) Unwrap() []error { return []error{e.error, e.also} }

// formatBlank formats a device that is blank or holds an unfinished format, if that is allowed.
func (o *Options) formatBlank() error {
	if o.Format == nil {
		return nil
	}
	blank, _, err := volume.IsBlank(o.Device)
	if err == nil && !blank && o.Format.Again {
		blank, err = volume.IsUnfinished(o.Device)
	}
	switch {
	case err != nil || !blank:
		return err
	case o.Anchor != nil:
		return fmt.Errorf("%w: the device is blank, but the anchor says that volume %v was at generation %d", volume.ErrOtherVolume, o.Anchor.Volume, o.Anchor.Generation)
	case o.ReadOnly:
		return mounter.ErrBlank
	}
	return o.format()
}

func (o *Options) format() error {
	// Force: no other process has the device open, and it was found blank. Setgid: fsGroup's
	// OnRootMismatch then skips the walk.
	f := volume.FormatOptions{Recipient: o.Current, RootMode: 0o2775, Force: true}
	if o.Format.Suite != "" {
		s, err := crypto.ParseSuite(o.Format.Suite)
		if err != nil {
			return err
		}
		f.Suite = s
	}
	return volume.Format(o.Device, f)
}
