package csi

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/mounter"
)

// A volume is made on its device when it is staged for the first time, and never again. That it was
// is kept outside of the device:
//
//	mount, formatting nothing         it opens: kept as formatted, and acknowledged
//	└ blank, and nothing is kept      kept as begun → format, mount → kept as formatted → acknowledged
//
// Cut off before "begun" is kept, nothing has happened. Cut off after it, the device is blank, or
// holds what a format leaves that was cut off, or the volume: nothing that was stored was
// acknowledged, so the first two are formatted (again), and the third is mounted. Once "formatted"
// is kept a device without the volume is data loss. A volume that is older than this is kept as
// formatted when it opens next.

// formatKeepers are all who keep it.
type formatKeepers []backend.FormatKeeper

// state is the furthest that any of them keeps.
func (k formatKeepers) state(ctx context.Context, id string) (backend.FormatState, error) {
	all := backend.FormatNone
	var errs error
	for _, one := range k {
		s, err := one.FormatState(ctx, id)
		if s == backend.FormatDone {
			return s, nil // whatever others do not tell
		}
		if s == backend.FormatBegun {
			all = s
		}
		errs = errors.Join(errs, err)
	}
	return all, errs
}

// keep has all of them keep a state.
func (k formatKeepers) keep(ctx context.Context, id string, s backend.FormatState) (errs error) {
	for _, one := range k {
		errs = errors.Join(errs, one.KeepFormat(ctx, id, s))
	}
	return errs
}

// mountOrMake mounts a volume to stage it, and makes it first if its device never held it. copyOf
// is the volume that it is a copy of, "" if it is none: a copy has been a volume from its
// beginning.
func (s *nodeServer) mountOrMake(ctx context.Context, q mounter.MountRequest, copyOf string) error {
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
		return fmt.Errorf("%w: nothing was formatted, because it could not be kept that the volume is made: %w", errUnavailable, err)
	}
	q.Format = &mounter.Format{Suite: format.Suite, Again: again}
	s.hook("format")
	if err := s.mounter.Mount(ctx, q); err != nil {
		return err
	}
	return s.keepFormatted(ctx, q.Volume)
}

// mayFormat decides, after a mount that failed because the device does not hold the volume, whether
// it is made there. again: what a format has left that was cut off may be formatted, too.
func (s *nodeServer) mayFormat(ctx context.Context, q mounter.MountRequest, why error, copyOf string, writable bool) (again bool, err error) {
	blank := errors.Is(why, mounter.ErrBlank)
	state, err := s.formats.state(ctx, q.Volume)
	switch {
	case state == backend.FormatDone:
		return false, lost(why)
	case blank && copyOf != "":
		return false, fmt.Errorf("%w: it is a copy of %s, and blank: either that was never used before it was copied, or the device was wiped. Nothing was formatted. Make the copy again, or an empty volume",
			errLost, copyOf)
	case !blank && (err != nil || state == backend.FormatNone), !writable:
		return false, why
	case err != nil:
		return false, fmt.Errorf("%w: the device is blank, and whether it held the volume before is not known, so that nothing was formatted: %w", errUnavailable, err)
	}
	return state == backend.FormatBegun, nil
}

// lost says of a device that it once held the volume.
func lost(why error) error {
	return fmt.Errorf("%w, although it did: %w. It was wiped, overwritten or exchanged; nothing was formatted. Put the right device, or a copy of it, back. "+
		"If the data may go, delete the volume and make another one (docs/csi.md, \"A device that was wiped\")", errLost, why)
}

// lostIfBlank is for volumes that were staged.
func lostIfBlank(err error) error {
	if errors.Is(err, mounter.ErrBlank) {
		return lost(err)
	}
	return err
}

// keepFormatted keeps of a volume that is mounted that it was made. Nothing is acknowledged before.
// But one that was made before anybody kept that, or where nobody can, stays usable: that it could
// not be kept is logged, and tried again each time.
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
		s.log.WarnContext(ctx, "it is not kept that the volume was made: should its device be wiped, another one would be made on it", "volume", id, "error", err)
		return nil
	}
	return fmt.Errorf("%w: the volume is mounted, but it could not be kept that it was made: %w", errUnavailable, err)
}
