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

// format is the JSON in formats/ID.json. It is a separate file because the node half, which does
// not own the records, writes it. Ids are never reused, so it never belongs to another volume.
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
		return backend.FormatNone, fmt.Errorf("%w: formats/%s has unexpected content", backend.ErrDamaged, formatFile(id))
	}
	return f.State, nil
}

// KeepFormat implements backend.FormatKeeper. Callers make one call at a time for each volume.
func (b *Backend) KeepFormat(ctx context.Context, id string, s backend.FormatState) error {
	if s != backend.FormatBegun && s != backend.FormatDone {
		return fmt.Errorf("%w: format state %q", backend.ErrInvalid, s)
	}
	now, err := b.FormatState(ctx, id)
	if err != nil {
		return err
	}
	if now == s || now == backend.FormatDone {
		return b.formats.sync() // the file may come from a call that failed after the rename
	}
	raw, err := json.Marshal(format{recordVersion, id, s})
	if err != nil {
		return err
	}
	return b.diskError(b.formats.replace(formatFile(id), raw))
}

// forgetFormat removes the format state of a volume whose image is deleted.
func (b *Backend) forgetFormat(id string) error {
	if err := b.formats.remove(formatFile(id) + ".tmp"); err != nil {
		return err
	}
	return b.formats.remove(formatFile(id))
}
