package txn

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Wrap adds the kind of error that vfs promises to internal errors.
func Wrap(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, crypto.ErrErased): // close erases the keys last
		return vfs.ErrClosed
	case errors.Is(err, layout.ErrCorrupt):
		return fmt.Errorf("%w: %w", vfs.ErrCorrupt, err)
	case errors.Is(err, ErrDevice):
		return fmt.Errorf("%w: %w", vfs.ErrIO, err)
	case errors.Is(err, device.ErrNotSupported):
		return fmt.Errorf("%w: %w", vfs.ErrNotSupported, err)
	case errors.Is(err, ErrNoSpace):
		return fmt.Errorf("%w: %w", vfs.ErrNoSpace, err)
	}
	return err
}
