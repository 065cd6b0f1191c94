package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/backend"
)

// job is a running copy. It belongs to the backend, not to the call that started it: if a copy
// takes longer than a call, a retry joins it and does not start another.
type job struct {
	done chan struct{}
	err  error // valid once done is closed
}

func (j *job) wait(ctx context.Context) error {
	select {
	case <-j.done:
		return j.err
	case <-ctx.Done():
		return fmt.Errorf("the copy is still running: %w", ctx.Err())
	}
}

// copy starts to create r from its source. The caller holds mu.
func (b *Backend) copy(r record) (*job, error) {
	from, err := b.source(*r.Source)
	if err != nil {
		return nil, err
	}
	if err := b.save(r); err != nil {
		return nil, err
	}
	s, hash := b.shelfOf(r.ID)
	j := &job{done: make(chan struct{})}
	b.jobs[s.prefix+hash] = j
	b.sources[from.ID]++
	b.promised += r.SizeBytes
	b.work.Go(func() {
		err := b.copyImage(&r, from)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.promised -= r.SizeBytes
		if b.sources[from.ID]--; b.sources[from.ID] == 0 {
			delete(b.sources, from.ID)
		}
		delete(b.jobs, s.prefix+hash)
		if err == nil {
			err = b.complete(r)
		} else {
			err = b.diskError(errors.Join(err, b.erase(r)))
		}
		j.err = err
		close(j.done)
	})
	return j, nil
}

// CopiesAll tells whether snapshots and clones cannot share the blocks of their source here, as
// they do on XFS and Btrfs. Then each is a full copy, and writes to a mounted source wait until it
// is complete.
func (b *Backend) CopiesAll() bool { return b.images.refusesClone() }

// copyImage creates the image of r durably, with the content of its source at one moment, which
// becomes r.Created.
func (b *Backend) copyImage(r *record, from record) error {
	if _, err := b.image(from); err != nil {
		return missing(err)
	}
	src, err := b.images.openat(imageFile(from.ID), unix.O_RDONLY, 0)
	if err != nil {
		return missing(err)
	}
	defer src.Close()
	release := func() error { return nil }
	if s, _ := b.shelfOf(from.ID); s == &b.vols {
		if release, err = b.rest(src, from.ID); err != nil {
			return err
		}
	}
	r.Created = time.Now().UTC()
	err = b.images.clone(src, imageFile(r.ID), from.SizeBytes, b.running.Err)
	if rerr := release(); err == nil && rerr != nil {
		err = fmt.Errorf("%w: the source was unfrozen during the copy: %w", backend.ErrBusy, rerr)
	}
	if err != nil {
		return err
	}
	return b.images.extend(imageFile(r.ID), r.SizeBytes, true)
}

func missing(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w: its image file does not exist", backend.ErrDamaged)
	}
	return err
}

// restTries limits how often a mount server may come or go while the backend looks for it.
const restTries = 3

// rest keeps a volume's image unchanged until release. A mount server holds an exclusive lock on
// its image. If there is none, rest takes a lock that keeps mount servers out; otherwise the mount
// server freezes the volume.
func (b *Backend) rest(src *os.File, id string) (release func() error, err error) {
	for range restTries {
		err = unix.Flock(int(src.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		if err == nil {
			return func() error { return nil }, nil // held until src is closed
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock the image: %w", err)
		}
		if b.opt.Quiesce == nil {
			return nil, fmt.Errorf("%w: it is mounted, but its mount server cannot be reached from this process (is --mounter-dir set?)", backend.ErrBusy)
		}
		release, err = b.opt.Quiesce(b.running, id)
		if !errors.Is(err, backend.ErrNotAttached) {
			return release, err
		}
	}
	return nil, fmt.Errorf("%w: it is being mounted or unmounted", backend.ErrBusy)
}
