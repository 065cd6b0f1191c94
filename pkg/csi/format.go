package csi

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/mounter"
)

// A volume is formatted when it is staged for the first time, and never again. The record of this
// is kept outside of the device:
//
//	mount without formatting       it opens: record "formatted", acknowledge
//	└ blank and no record          record "begun" → format, mount → record "formatted" → acknowledge
//
// After a crash before "begun" is recorded, nothing has happened. After a crash later on, the
// device is blank, holds an unfinished format, or holds the volume. No stored data was
// acknowledged, so the driver formats the device (again) in the first two cases and mounts the
// volume in the third. Once "formatted" is recorded, a device without the volume is data loss. A
// volume that was formatted by an earlier version is recorded as formatted when it next opens.

// formatKeepers are all places where the format state is recorded.
type formatKeepers []backend.FormatKeeper

// state returns the most advanced state that any keeper has recorded.
func (k formatKeepers) state(ctx context.Context, id string) (backend.FormatState, error) {
	all := backend.FormatNone
	var errs error
	for _, one := range k {
		s, err := one.FormatState(ctx, id)
		if s == backend.FormatDone {
			return s, nil // "formatted" decides, even if other keepers fail
		}
		if s == backend.FormatBegun {
			all = s
		}
		errs = errors.Join(errs, err)
	}
	return all, errs
}

// keep records a state with all keepers.
func (k formatKeepers) keep(ctx context.Context, id string, s backend.FormatState) (errs error) {
	for _, one := range k {
		errs = errors.Join(errs, one.KeepFormat(ctx, id, s))
	}
	return errs
}

// mountOrFormat mounts a volume to stage it, and formats it first if its device never held it.
// copyOf is the volume that this one is a copy of, or "". A copy counts as formatted from its
// creation on.
func (s *nodeServer) mountOrFormat(ctx context.Context, q mounter.MountRequest, copyOf string) error {
	format := q.Format
	q.Format = nil
	err := s.mounter.Mount(ctx, q)
	if err == nil {
		return s.keepFormatted(ctx, q.Volume)
	}
	if !errors.Is(err, mounter.ErrBlank) && !errors.Is(err, mounter.ErrForeign) {
		return err
	}
	again, err := s.mayFormat(ctx, q, err, copyOf, format != nil)
	if err != nil {
		return err
	}
	s.hook("keep begun")
	if err := s.formats.keep(ctx, q.Volume, backend.FormatBegun); err != nil {
		return fmt.Errorf("%w: cannot record that the volume is being formatted, so nothing was formatted; a retry continues: %w", errUnavailable, err)
	}
	q.Format = &mounter.Format{Suite: format.Suite, Again: again}
	s.hook("format")
	if err := s.mounter.Mount(ctx, q); err != nil {
		return err
	}
	return s.keepFormatted(ctx, q.Volume)
}

// mayFormat decides whether to format the device after a mount failed because the device does not
// hold the volume. again allows formatting over an unfinished format.
func (s *nodeServer) mayFormat(ctx context.Context, q mounter.MountRequest, why error, copyOf string, writable bool) (again bool, err error) {
	blank := errors.Is(why, mounter.ErrBlank)
	state, err := s.formats.state(ctx, q.Volume)
	switch {
	case state == backend.FormatDone:
		return false, lost(why)
	case blank && copyOf != "":
		return false, fmt.Errorf("%w: the volume is a copy of %s, but its device is blank: either the source was never used before it was copied, or the device was wiped. Nothing was formatted. Stage the source at least once and copy it again, or create an empty volume",
			errLost, copyOf)
	case !blank && (err != nil || state == backend.FormatNone), !writable:
		return false, why
	case err != nil:
		return false, fmt.Errorf("%w: the device is blank, and the driver cannot find out whether it held the volume before, so nothing was formatted; a retry continues: %w", errUnavailable, err)
	}
	return state == backend.FormatBegun, nil
}

// lost returns the error for a device that once held the volume and no longer does.
func lost(why error) error {
	return fmt.Errorf("%w: %w. The device was wiped, overwritten or exchanged. Nothing was formatted. Attach the right device again, or a copy of it. "+
		"If you do not need the data, delete the volume and create another one (docs/csi.md, \"A device that was wiped\")", errLost, why)
}

// lostIfBlank translates ErrBlank into data loss, for volumes that were staged before.
func lostIfBlank(err error) error {
	if errors.Is(err, mounter.ErrBlank) {
		return lost(err)
	}
	return err
}

// keepFormatted records that a mounted volume is formatted; the stage is acknowledged only after
// that. There is one exception: a volume that was formatted before such records existed, or that
// has no working keeper, stays usable. The driver then logs a warning and tries again at each
// stage.
func (s *nodeServer) keepFormatted(ctx context.Context, id string) error {
	s.hook("keep formatted")
	err := s.formats.keep(ctx, id, backend.FormatDone)
	if err == nil {
		return nil
	}
	state, serr := s.formats.state(ctx, id)
	switch {
	case serr == nil && state == backend.FormatDone:
		return nil
	case serr == nil && state == backend.FormatNone:
		s.log.WarnContext(ctx, "cannot record that the volume is formatted: if its device is wiped, the driver would format it again", "volume", id, "error", err)
		return nil
	}
	return fmt.Errorf("%w: the volume is mounted, but the driver cannot record that it is formatted; a retry continues: %w", errUnavailable, err)
}
