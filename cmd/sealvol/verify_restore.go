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
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// trialMemory is that of a restore into a scratch volume and of the comparison after it.
const trialMemory = restoreMemory + create.MemoryLimit

// emptyVolume is the space that an empty scratch volume needs, and some to spare.
const emptyVolume = 96 << 20

// restores restores the snapshot into a scratch volume and compares. What is wrong with the snapshot
// is a problem. It returns an error if the snapshot could not be restored or compared for another
// reason, such as the connection to the store. The content needs room bytes.
func (o *snapshotVerify) restores(ctx context.Context, s *stored, snap *reading.Snapshot, e *events, room uint64) (problem, err error) {
	defer limitMemory(trialMemory)()
	dev, err := scratchDevice(o.scratch, snap, room+emptyVolume)
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
	if errors.Is(err, trial.ErrDiffers) || errors.Is(err, logical.ErrInvalid) || isStoreDamage(err) {
		return err, nil
	}
	return nil, explainRead(err)
}

func scratchDir(dir string) string {
	if dir == "" {
		return os.TempDir()
	}
	return dir
}

// unnamed creates a file without a name.
func unnamed(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	if err == nil || !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) {
		return f, err
	}
	if f, err = os.CreateTemp(dir, "sealvol-verify-"); err != nil { // NFS and others
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// scratchDevice makes a file for a scratch volume, which has no name and disappears with the process.
// It refuses a directory in which need bytes are not available.
func scratchDevice(dir string, r *reading.Snapshot, need uint64) (*device.File, error) {
	dir = scratchDir(dir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if have := st.Bavail * uint64(st.Bsize); have < need {
		return nil, withHint(fmt.Errorf("%s: not enough space for the scratch volume: it needs about %s, and %s are available", dir, formatSize(int64(min(need, 1<<62))), formatSize(int64(have))),
			"give --scratch a directory with more space")
	}
	f, err := unnamed(dir)
	if err != nil {
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
