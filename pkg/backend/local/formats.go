package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/backend"
)

var _ backend.FormatKeeper = (*Backend)(nil)

// format is the JSON in formats/ID.json. It is a file of its own, because the node half writes it,
// which does not own the records. Ids never return, so that it is never another volume's.
type format struct {
	Version int                 `json:"version"`
	ID      string              `json:"id"`
	State   backend.FormatState `json:"state"`
}

const maxFormatBytes = 4096

func formatFile(id string) string { return id + ".json" }

// FormatState implements backend.FormatKeeper.
func (b *Backend) FormatState(ctx context.Context, id string) (backend.FormatState, error) {
	if err := ctx.Err(); err != nil {
		return backend.FormatNone, err
	}
	if _, err := b.byID(id); err != nil {
		return backend.FormatNone, err
	}
	raw, err := b.formats.read(formatFile(id), maxFormatBytes)
	if errors.Is(err, unix.ENOENT) {
		return backend.FormatNone, nil
	}
	if err != nil {
		return backend.FormatNone, err
	}
	var f format
	if err := json.Unmarshal(raw, &f); err != nil || f.Version != recordVersion || f.ID != id || f.State != backend.FormatBegun && f.State != backend.FormatDone {
		return backend.FormatNone, fmt.Errorf("%w: formats/%s is not what this program writes", backend.ErrDamaged, formatFile(id))
	}
	return f.State, nil
}

// KeepFormat implements backend.FormatKeeper. One call at a time for each volume.
func (b *Backend) KeepFormat(ctx context.Context, id string, s backend.FormatState) error {
	if s != backend.FormatBegun && s != backend.FormatDone {
		return fmt.Errorf("%w: format state %q", backend.ErrInvalid, s)
	}
	now, err := b.FormatState(ctx, id)
	if err != nil {
		return err
	}
	if now == s || now == backend.FormatDone {
		return b.formats.sync() // what is read may have been renamed by a call that failed after it
	}
	raw, err := json.Marshal(format{recordVersion, id, s})
	if err != nil {
		return err
	}
	return b.diskError(b.formats.replace(formatFile(id), raw))
}

// forgetFormat removes what is kept of a volume that has no image any more.
func (b *Backend) forgetFormat(id string) error {
	if err := b.formats.remove(formatFile(id) + ".tmp"); err != nil {
		return err
	}
	return b.formats.remove(formatFile(id))
}
