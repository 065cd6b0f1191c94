package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/snapshot/reading"
	"github.com/sealvol/sealvol/pkg/snapshot/trial"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// trialMemory is that of a restore into a scratch volume and of the comparison after it.
const trialMemory = restoreMemory + create.MemoryLimit

// restores restores the snapshot into a scratch volume and compares. It returns a problem, or an
// error if that could not be done.
func (o *snapshotVerify) restores(ctx context.Context, s *stored, snap *reading.Snapshot, e *events) (problem, err error) {
	limitMemory(trialMemory)
	dev, err := scratchDevice(o.scratch, snap)
	if err != nil {
		return nil, err
	}
	defer discard(dev)
	t, err := trial.Restore(ctx, snap.Snapshot, dev, trial.Options{Store: s.Description(), Tenant: s.tenant.Keys, Memory: loaderMemory, Restored: e.restored,
		Compared: func(p create.Progress) {
			e.progress(&progressEvent{Step: "comparing", Files: p.Files, FilesTotal: p.FilesTotal, Bytes: p.Read, BytesTotal: p.ReadTotal})
		}})
	if err == nil {
		defer t.Close()
		err = t.Compare(ctx)
	}
	switch {
	case err == nil || ctx.Err() != nil:
		return nil, err
	case errors.Is(err, vfs.ErrNoSpace), errors.Is(err, unix.ENOSPC):
		return nil, withHint(fmt.Errorf("%s: the scratch volume does not fit: %w", scratchDir(o.scratch), err), "give --scratch a directory with more space; the restored content needs about its own size there")
	}
	return err, nil
}

func scratchDir(dir string) string {
	if dir == "" {
		return os.TempDir()
	}
	return dir
}

// scratchDevice makes a file for a scratch volume, which has no name and disappears with the process.
func scratchDevice(dir string, r *reading.Snapshot) (*device.File, error) {
	dir = scratchDir(dir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	f, err := os.CreateTemp(dir, "sealvol-verify-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	// Holes need no space, so the volume need not be larger than what is free.
	free := int64(st.Bavail) * st.Bsize
	if err := f.Truncate(min(volumeFor(r), free+free/8+256<<20) &^ (1<<20 - 1)); err != nil {
		f.Close()
		return nil, err
	}
	return device.NewFile(f, device.OpenOptions{})
}
