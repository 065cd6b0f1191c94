package mountserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// ForMounter returns the mount server that a mounter starts: mounter.RunServer calls it. It logs to
// slog.Default(), whose level is level.
func ForMounter(level *slog.LevelVar) mounter.Serve {
	return func(ctx context.Context, c mounter.ServeConfig) error {
		s, err := openFor(ctx, c, level)
		if err != nil {
			return mounterError(err)
		}
		if err := s.Attach(c.Fuse); err != nil {
			return errors.Join(err, s.Close())
		}
		if err := c.Ready(ctx, s.Mux()); err != nil {
			return errors.Join(err, s.Close())
		}
		return s.Serve(ctx, c.Serving)
	}
}

// openFor opens a volume as a mounter requests it.
func openFor(ctx context.Context, c mounter.ServeConfig, level *slog.LevelVar) (*Server, error) {
	dev, err := device.NewFile(c.Device, device.OpenOptions{ReadOnly: c.ReadOnly})
	if err != nil {
		return nil, err
	}
	o := Options{Device: dev, Name: c.Volume, ReadOnly: c.ReadOnly, MemoryBytes: c.MemoryBytes, Format: c.Format, RejectCopy: c.Own,
		RetryNoSpace: c.Block, Level: level, Workers: true}
	keys, err := o.parse(c)
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	defer eraseAll(keys)
	return Open(ctx, o)
}

func eraseAll(keys []crypto.Credential) {
	for _, k := range keys {
		k.Erase()
	}
}

// parse reads instance, anchor and keys. The caller erases the keys.
func (o *Options) parse(c mounter.ServeConfig) (keys []crypto.Credential, err error) {
	defer c.Keys.Clear() // an error may leave some of them unread
	if c.Instance != "" {
		if o.Instance, err = crypto.ParseUUID(c.Instance); err != nil {
			return nil, fmt.Errorf("%w: malformed instance ID", mounter.ErrInvalid)
		}
	}
	if c.Anchor != "" {
		a, err := volume.ParseAnchor([]byte(c.Anchor))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", mounter.ErrInvalid, err)
		}
		o.Anchor = &a
	}
	return o.parseKeys(c.Keys.KEK(), c.Keys.Previous())
}

// parseKeys reads the current key and the previous one; nil is no key. After an error no key is left
// in memory.
func (o *Options) parseKeys(raws ...[]byte) (keys []crypto.Credential, err error) {
	for _, raw := range raws {
		if raw == nil {
			continue
		}
		key, err := crypto.NewKey(raw) // clears raw
		if err != nil {
			eraseAll(keys)
			o.Current = nil
			return nil, err
		}
		k := crypto.SecretCredential(key)
		if len(keys) == 0 {
			o.Current = k
		}
		keys = append(keys, k)
	}
	o.Keys = keys
	return keys, nil
}

// copyAttribute is the volume attribute that declares a copy; see docs/csi.md.
const copyAttribute = "keyVolume"

// mounterErrors maps the errors of opening a volume to those that a mounter's callers know. The
// first match wins, because some errors wrap others.
var mounterErrors = []struct{ from, to error }{
	{volume.ErrRolledBack, mounter.ErrRolledBack},
	{volume.ErrForked, mounter.ErrRolledBack},
	{volume.ErrOtherVolume, mounter.ErrRolledBack},
	{volume.ErrCopy, mounter.ErrCopy},
	{volume.ErrRestoring, mounter.ErrRestoring},
	{volume.ErrWrongKey, mounter.ErrWrongKey},
	{volume.ErrInUse, mounter.ErrBusy},
	{mounter.ErrBlank, mounter.ErrBlank},
	{mounter.ErrNoKey, mounter.ErrNoKey},
	{ErrV1, mounter.ErrForeign},
	{volume.ErrNotSealvol, mounter.ErrForeign},
	{volume.ErrNotEmpty, mounter.ErrForeign},
	{volume.ErrShredded, mounter.ErrDamaged},
	{volume.ErrHeader, mounter.ErrDamaged},
	{volume.ErrForged, mounter.ErrDamaged},
	{volume.ErrTwoRoots, mounter.ErrDamaged},
	{volume.ErrTruncated, mounter.ErrDamaged},
	{volume.ErrNoRoot, mounter.ErrDamaged},
	{volume.ErrLogDamaged, mounter.ErrDamaged},
	{volume.ErrDamaged, mounter.ErrDamaged},
	{vfs.ErrCorrupt, mounter.ErrDamaged},
}

func mounterError(err error) error {
	if errors.Is(err, volume.ErrCopy) {
		err = fmt.Errorf("%w. To use the copy as a volume of its own, set "+copyAttribute+" in the volume attributes of its PersistentVolume to the handle of the volume that it was copied from", err)
	}
	for _, e := range mounterErrors {
		if !errors.Is(err, e.from) {
			continue
		}
		switch {
		case errors.Is(err, e.to):
			return err
		case strings.HasPrefix(err.Error(), e.to.Error()): // its text would say the same twice
			return &marked{err, e.to}
		}
		return fmt.Errorf("%w: %w", e.to, err)
	}
	return err
}
