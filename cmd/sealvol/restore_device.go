package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/snapshot/reading"
	"github.com/sealvol/sealvol/pkg/snapshot/restore"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// restoredReport is the JSON of restore.
type restoredReport struct {
	Event    string `json:"event"`
	ID       string `json:"id"`
	Target   string `json:"target"`
	UUID     string `json:"uuid,omitempty"` // of the new volume
	Resumed  bool   `json:"resumed"`
	Files    uint64 `json:"files"`
	Dirs     uint64 `json:"directories,omitempty"`
	Logical  uint64 `json:"logicalBytes"`
	Present  uint64 `json:"present,omitempty"`  // files that were there already
	Stripped uint64 `json:"stripped,omitempty"` // files without set-user-ID bits or capabilities that they had
	Failed   int    `json:"failed"`
	Millis   int64  `json:"milliseconds"`
	Requests any    `json:"requests"`
}

// suiteOfVolume returns the suite of the new volume.
func (o *snapshotRestore) suiteOfVolume(r *reading.Snapshot) (crypto.Suite, error) {
	if o.suite == "" {
		return crypto.Suite(r.Head.Suite), nil
	}
	suite, err := crypto.ParseSuite(o.suite)
	if err != nil {
		return 0, usageError(fmt.Errorf("--suite %s: must be xchacha20poly1305 or xaes256gcm", o.suite))
	}
	return suite, nil
}

// device restores to a new volume.
func (o *snapshotRestore) device(ctx context.Context, w io.Writer, s *stored, r *reading.Snapshot, sn *snapstore.Snapshot, path string) error {
	begin := time.Now()
	f := volume.FormatOptions{Force: o.force, SizeBytes: int64(o.size)}
	var err error
	if f.Suite, err = o.suiteOfVolume(r); err != nil {
		return err
	}
	cred, to, erase, err := o.volumeKey(s)
	if err != nil {
		return err
	}
	defer erase()
	f.Recipient = to
	if o.to.recipient != "" {
		extra, err := readRecipient(o.to.recipient)
		if err != nil {
			return err
		}
		f.Extra = append(f.Extra, extra)
	}
	defer limitMemory(restoreMemory)()
	l := volume.LoadOptions{Credential: cred, Log: stderrLog(), Memory: loaderMemory, HashSeed: r.Body.Seed, Inodes: r.Body.Files + r.Body.Dirs}
	if l.NextIno, err = r.NextIno(ctx); err != nil {
		return o.wrap(err)
	}
	if err := o.image(path, r); err != nil {
		return err
	}
	dev, err := openDevice(path, false)
	if err != nil {
		return err
	}
	defer discard(dev) // Finish has flushed it
	rep := &restoredReport{Event: "finished", ID: sn.ID.String(), Target: path, Files: r.Body.Files, Dirs: r.Body.Dirs, Logical: r.Body.LogicalBytes}
	if err := o.load(ctx, w, dev, path, f, l, r, rep); err != nil {
		return err
	}
	rep.Millis, rep.Requests = time.Since(begin).Milliseconds(), s.meter.Requests()
	if o.json {
		return writeLine(w, rep)
	}
	say(w, "%s: restored snapshot %s to the new volume %s\n", printable(path), short(rep.ID), rep.UUID)
	say(w, "  content:  %s in %s and %s, in %s\n", formatSize(int64(rep.Logical)), counted(rep.Files, "file"), counted(rep.Dirs, "directory"), time.Since(begin).Round(time.Millisecond))
	say(w, "  requests: %s\n", requestText(s.meter.Requests()))
	return nil
}

// image creates the image file if it does not exist.
func (o *snapshotRestore) image(path string, r *reading.Snapshot) error {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && o.size == 0 {
		return withHint(fmt.Errorf("%s: %w", path, device.ErrNotFound),
			fmt.Sprintf("check the path; or give --size to create an image file there; %s is enough; or end the name with / to restore files to a new directory", formatSize(volumeFor(r))))
	}
	var err error
	o.made, err = (&mkfsOptions{bytes: o.size}).image(path)
	return err
}

// volumeFor returns a size in bytes of a volume that is enough for a snapshot.
func volumeFor(r *reading.Snapshot) int64 {
	least := int64(min(r.Body.LogicalBytes, 1<<61))
	least += least/10 + int64(min(r.Body.Files+r.Body.Dirs, 1<<40))<<10 + 128<<20
	return (least + 1<<20 - 1) &^ (1<<20 - 1)
}

// load restores, from the beginning or from where an interrupted restore ended.
func (o *snapshotRestore) load(ctx context.Context, w io.Writer, dev device.Device, path string, f volume.FormatOptions, l volume.LoadOptions, r *reading.Snapshot, rep *restoredReport) error {
	loader, position, err := o.loader(dev, f, l)
	if err != nil {
		if o.made { // otherwise, --size would have no effect when the command is repeated
			err = errors.Join(err, os.Remove(path))
		}
		if errors.Is(err, vfs.ErrNoSpace) {
			err = withHint(err, "use a larger device, or a larger --size for a new image file")
		}
		return volumeError(dev, path, err)
	}
	rep.UUID, rep.Resumed = loader.ID().String(), position != nil
	if rep.Resumed && !o.json {
		say(os.Stderr, "resuming the interrupted restore\n")
	}
	events := newEvents(w, "restore", o.json)
	defer events.end()
	events.begin(&startedEvent{Event: "started", ID: rep.ID, Resumed: rep.Resumed})
	err = restore.Run(ctx, r.RestoreSource(), loader, restore.Options{Position: position, Progress: events.restored})
	events.end()
	err = errors.Join(err, loader.Close())
	switch {
	case err == nil:
		return nil
	case errors.Is(err, restore.ErrPosition):
		return withHint(fmt.Errorf("%s: %w", path, err), "name that snapshot, or use --force to begin again with this one")
	case ctx.Err() != nil:
		return withHint(fmt.Errorf("%s: %w", path, err), "the volume is incomplete: run the command again, and it resumes where this one ended")
	}
	if errors.Is(err, unix.ENOSPC) {
		return withHint(fmt.Errorf("%s: %w", path, err), "free space on the disk that holds the image, then run the command again: it resumes where this one ended")
	}
	if explained := explainRead(err); hint(explained) != "" { // of the store, not of the device
		return withHint(fmt.Errorf("%s: %w", path, err), hint(explained))
	}
	return fmt.Errorf("%s: %w", path, err)
}

// loader goes on with the volume of an interrupted restore, or makes a new one.
func (o *snapshotRestore) loader(dev device.Device, f volume.FormatOptions, l volume.LoadOptions) (*volume.Loader, []byte, error) {
	loader, position, err := volume.ResumeLoader(dev, l)
	switch {
	case err == nil:
		return loader, position, nil
	case errors.Is(err, volume.ErrInUse):
		return nil, nil, err
	case errors.Is(err, volume.ErrNotSealvol), errors.Is(err, volume.ErrNotRestoring), o.force:
	case errors.Is(err, logical.ErrInvalid): // of another snapshot
		return nil, nil, withHint(err, "restore that snapshot, or use --force to begin again with this one")
	case isRestoring(dev):
		return nil, nil, err
	}
	loader, err = volume.NewLoader(dev, f, l)
	return loader, nil, err
}

// isRestoring reports whether a device holds an unfinished restore.
func isRestoring(dev device.Device) bool {
	h, err := volume.ReadHeader(dev)
	return err == nil && h.Restoring
}
