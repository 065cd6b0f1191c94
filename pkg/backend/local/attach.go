package local

import (
	"context"
	"errors"

	"github.com/sealvol/sealvol/pkg/backend"
)

// Attach implements backend.Controller. An image is always accessible on its own node; the record
// says who may use it.
func (b *Backend) Attach(ctx context.Context, id, node string, readOnly bool) (map[string]string, error) {
	if err := b.begin(ctx); err != nil {
		return nil, err
	}
	defer b.mu.Unlock()
	r, err := b.byID(id)
	switch a := r.Attachment; {
	case err != nil:
		return nil, err
	case node != b.opt.Node:
		if a != nil && a.Node != node {
			return nil, backend.ErrAttachedElsewhere
		}
		return nil, backend.ErrNodeNotFound
	case a != nil && a.Node != node:
		return nil, backend.ErrAttachedElsewhere
	case a != nil && a.ReadOnly != readOnly:
		return nil, backend.ErrAttachedOtherwise
	case a != nil:
		return nil, nil
	case b.opt.MaxVolumes > 0 && b.attached >= b.opt.MaxVolumes:
		return nil, backend.ErrTooManyAttached
	}
	r.Attachment = &backend.Attachment{Node: node, ReadOnly: readOnly}
	return nil, b.saveAttachment(ctx, r, 1)
}

// saveAttachment writes the record and keeps the count right even if it is unknown whether the
// write succeeded.
func (b *Backend) saveAttachment(ctx context.Context, r record, delta int64) error {
	err := b.save(r)
	if err != nil {
		back, lerr := b.byID(r.ID)
		if lerr != nil || (back.Attachment == nil) != (r.Attachment == nil) {
			return err
		}
	}
	b.attached += delta
	b.opt.Log.DebugContext(ctx, "attachment recorded", "volume", r.ID, "attached", r.Attachment != nil)
	return err
}

// Detach implements backend.Controller.
func (b *Backend) Detach(ctx context.Context, id, node string) error {
	if err := b.begin(ctx); err != nil {
		return err
	}
	defer b.mu.Unlock()
	r, err := b.byID(id)
	if errors.Is(err, backend.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if r.Attachment == nil || node != "" && r.Attachment.Node != node {
		return nil
	}
	r.Attachment = nil
	return b.saveAttachment(ctx, r, -1)
}
