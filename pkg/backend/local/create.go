package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sealvol/sealvol/pkg/backend"
)

// reaches tells whether one of the places is this node, or none is named.
func (b *Backend) reaches(places []backend.Segments) bool {
	if len(places) == 0 {
		return true
	}
	return slices.ContainsFunc(places, func(s backend.Segments) bool { return s[TopologyKey] == b.opt.Node })
}

// Create implements backend.Controller.
func (b *Backend) Create(ctx context.Context, spec backend.Spec) (backend.Volume, error) {
	if err := checkName(spec.Name); err != nil {
		return backend.Volume{}, err
	}
	if len(spec.Class)+len(spec.Mutable) > 0 {
		return backend.Volume{}, fmt.Errorf("%w: the local backend has no parameters of its own", backend.ErrInvalid)
	}
	if s := spec.Source; s != nil && (s.Volume == "") == (s.Snapshot == "") {
		return backend.Volume{}, fmt.Errorf("%w: a source must be either a volume or a snapshot", backend.ErrInvalid)
	}
	if _, err := pickSize(spec.RequiredBytes, spec.LimitBytes); err != nil {
		return backend.Volume{}, err
	}
	r, err := b.made(ctx, &b.vols, spec.Name, func(old *record) (record, error) {
		if old != nil {
			return *old, b.sameVolume(*old, spec)
		}
		return b.plan(spec)
	})
	if err != nil {
		return backend.Volume{}, err
	}
	return b.volume(r), nil
}

// sameVolume compares a volume with the requested one of the same name.
func (b *Backend) sameVolume(r record, spec backend.Spec) error {
	same := r.Source == spec.Source || r.Source != nil && spec.Source != nil && *r.Source == *spec.Source
	if !same || r.SizeBytes < spec.RequiredBytes || spec.LimitBytes > 0 && r.SizeBytes > spec.LimitBytes ||
		!maps.Equal(r.Parameters, spec.Parameters) || !b.reaches(spec.Requisite) {
		return backend.ErrExists
	}
	return nil
}

// plan returns the record of a volume to create. The caller holds mu.
func (b *Backend) plan(spec backend.Spec) (record, error) {
	r := record{Version: recordVersion, ID: newID(volPrefix, spec.Name), Name: spec.Name, State: creating, Parameters: spec.Parameters, Source: spec.Source}
	required := spec.RequiredBytes
	if s := spec.Source; s != nil {
		from, err := b.source(*s)
		if err != nil {
			return r, fmt.Errorf("source: %w", err)
		}
		required = max(required, from.SizeBytes)
		if spec.LimitBytes > 0 && spec.LimitBytes < required {
			return r, fmt.Errorf("%w: the source has %d bytes, limit %d", backend.ErrOutOfRange, from.SizeBytes, spec.LimitBytes)
		}
		if r.Origin = from.Origin; r.Origin == "" {
			r.Origin = from.ID
		}
	}
	if !b.reaches(spec.Requisite) {
		return r, fmt.Errorf("%w: this backend creates volumes on node %s only", backend.ErrTopology, b.opt.Node)
	}
	var err error
	r.SizeBytes, err = pickSize(required, spec.LimitBytes)
	return r, err
}

// source returns the record of the source of a copy.
func (b *Backend) source(s backend.Source) (record, error) {
	if s.Snapshot != "" {
		return b.onShelf(&b.snaps, s.Snapshot)
	}
	return b.onShelf(&b.vols, s.Volume)
}

// made returns the volume or snapshot of a name, and creates it if it is missing. check gets the
// existing record, or nil to plan a new one. If a copy of that name is running, made waits for it.
func (b *Backend) made(ctx context.Context, s *shelf, name string, check func(old *record) (record, error)) (record, error) {
	hash := hashName(name)
	for {
		if err := b.begin(ctx); err != nil {
			return record{}, err
		}
		j := b.jobs[s.prefix+hash]
		if j == nil {
			break
		}
		b.mu.Unlock()
		if err := j.wait(ctx); err != nil {
			return record{}, err
		}
	}
	r, err := b.load(s, hash)
	switch {
	case err == nil && r.State == ready:
		defer b.mu.Unlock()
		return check(&r)
	case err == nil: // an earlier call failed halfway and was never acknowledged
		b.unindex(r)
		err = b.erase(r)
	case errors.Is(err, s.notFound()):
		err = nil
	}
	if err == nil {
		if r, err = check(nil); err == nil {
			err = b.fits(r.SizeBytes)
		}
	}
	if err != nil || r.Source == nil {
		defer b.mu.Unlock()
		if err == nil {
			err = b.make(r)
		}
		if err == nil {
			b.opt.Log.DebugContext(ctx, "image created", "volume", r.ID, "bytes", r.SizeBytes)
		}
		r.State = ready
		return r, err
	}
	j, err := b.copy(r)
	b.mu.Unlock()
	if err == nil {
		err = j.wait(ctx)
	}
	if err != nil {
		return record{}, err
	}
	b.opt.Log.DebugContext(ctx, "image copied", "volume", r.ID, "bytes", r.SizeBytes)
	return b.load(s, hash)
}

// make creates an empty volume. The caller holds mu.
func (b *Backend) make(r record) error {
	if err := b.save(r); err != nil {
		return err
	}
	if err := b.images.extend(imageFile(r.ID), r.SizeBytes, true); err != nil {
		return b.diskError(errors.Join(err, b.erase(r)))
	}
	return b.complete(r)
}

// complete marks a volume or snapshot as ready once its image exists. The caller holds mu.
func (b *Backend) complete(r record) error {
	r.State = ready
	err := b.save(r)
	if err != nil {
		// The rename may or may not have happened: the index must agree with what readers see.
		s, hash := b.shelfOf(r.ID)
		if back, lerr := b.load(s, hash); lerr != nil || back.State != ready {
			return err
		}
	}
	if b.index(r) {
		b.promised += r.SizeBytes
	}
	return err
}
