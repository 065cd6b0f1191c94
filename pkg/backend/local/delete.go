package local

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/backend"
	"golang.org/x/sys/unix"
)

// Delete implements backend.Controller.
func (b *Backend) Delete(ctx context.Context, id string) error { return b.discard(ctx, &b.vols, id) }

func (b *Backend) discard(ctx context.Context, s *shelf, id string) error {
	hash, ok := hashOfID(s.prefix, id)
	if !ok {
		return nil
	}
	if err := b.begin(ctx); err != nil {
		return err
	}
	defer b.mu.Unlock()
	r, err := b.load(s, hash)
	if errors.Is(err, s.notFound()) || err == nil && r.ID != id {
		return nil
	}
	if err != nil {
		return err
	}
	if r.Attachment != nil {
		return fmt.Errorf("%w: the volume is attached to a node", backend.ErrBusy)
	}
	if b.sources[id] > 0 || b.jobs[s.prefix+hash] != nil {
		return fmt.Errorf("%w: it is being copied", backend.ErrBusy)
	}
	if err := b.unlocked(r); err != nil {
		return err
	}
	if r.State == ready {
		r.State = deleting
		if err := b.save(r); err != nil {
			return err
		}
	}
	b.unindex(r)
	if err := b.erase(r); err != nil {
		return err
	}
	b.opt.Log.DebugContext(ctx, "image deleted", "volume", id, "bytes", r.SizeBytes)
	return nil
}

// unlocked checks that no mount server has an image open, whatever the record says.
func (b *Backend) unlocked(r record) error {
	f, err := b.images.openat(imageFile(r.ID), unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil // an image that cannot be opened is not locked, and may be deleted
	}
	defer f.Close()
	if errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK) {
		return fmt.Errorf("%w: a mount server has the image open", backend.ErrBusy)
	}
	return nil
}
