package local

import (
	"context"

	"github.com/sealvol/sealvol/pkg/backend"
)

// CreateSnapshot implements backend.Snapshotter.
func (b *Backend) CreateSnapshot(ctx context.Context, spec backend.SnapshotSpec) (backend.Snapshot, error) {
	if err := checkName(spec.Name); err != nil {
		return backend.Snapshot{}, err
	}
	r, err := b.made(ctx, &b.snaps, spec.Name, func(old *record) (record, error) {
		if old != nil {
			if old.Source.Volume != spec.Volume {
				return *old, backend.ErrExists
			}
			return *old, nil
		}
		from, err := b.byID(spec.Volume)
		if err != nil {
			return record{}, err
		}
		r := record{Version: recordVersion, ID: newID(snapPrefix, spec.Name), Name: spec.Name, State: creating, SizeBytes: from.SizeBytes,
			Parameters: from.Parameters, Source: &backend.Source{Volume: from.ID}, Origin: from.Origin}
		if r.Origin == "" {
			r.Origin = from.ID
		}
		return r, nil
	})
	if err != nil {
		return backend.Snapshot{}, err
	}
	return snapshot(r), nil
}

func snapshot(r record) backend.Snapshot {
	return backend.Snapshot{ID: r.ID, Name: r.Name, Volume: r.Source.Volume, SizeBytes: r.SizeBytes, Created: r.Created,
		State: backend.SnapshotReady, Parameters: r.Parameters, Origin: r.Origin}
}

// DeleteSnapshot implements backend.Snapshotter.
func (b *Backend) DeleteSnapshot(ctx context.Context, id string) error {
	return b.discard(ctx, &b.snaps, id)
}

// GetSnapshot implements backend.Snapshotter.
func (b *Backend) GetSnapshot(ctx context.Context, id string) (backend.Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return backend.Snapshot{}, err
	}
	r, err := b.onShelf(&b.snaps, id)
	if err != nil {
		return backend.Snapshot{}, err
	}
	return snapshot(r), nil
}

// ListSnapshots implements backend.Snapshotter.
func (b *Backend) ListSnapshots(ctx context.Context, volume, token string, most int) ([]backend.Snapshot, string, error) {
	ids := func() []string { return b.snaps.ids }
	if volume != "" {
		ids = func() []string { return b.of[volume] }
	}
	return list(ctx, b, &b.snaps, token, most, ids, snapshot)
}
