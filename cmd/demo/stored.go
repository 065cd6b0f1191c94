package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Names in the directory of the demo.
const (
	storeName    = "store" // of snapshots
	tenantName   = "tenant.key"
	volKeyName   = "volume.key"
	restoredName = "restored.img"
	restoredDir  = "restored"
)

func (d *demo) storeURL() string { return "file://" + d.path(storeName) }

// sealvol runs the command-line tool for stored snapshots.
func (d *demo) sealvol(ctx context.Context, args ...string) (string, error) {
	return program(ctx, d.dir, nil, "", d.opt.sealvol, args...)
}

// stored runs a command that takes the store and both secrets.
func (d *demo) stored(ctx context.Context, command string, args ...string) (string, error) {
	return d.sealvol(ctx, append([]string{"snapshot", command, "--store", d.storeURL(), "--tenant-file", d.path(tenantName), "--key-file", d.path(volKeyName)}, args...)...)
}

// snapshotReport is the last line of `sealvol snapshot create --json`.
type snapshotReport struct {
	Incremental bool   `json:"incremental"`
	Files       uint64 `json:"files"`
	Read        int64  `json:"readBytes"`
	Stored      int64  `json:"storedBytes"`
}

// snapshot stores a snapshot of the mounted volume.
func (d *demo) snapshot(ctx context.Context, name string) (r snapshotReport, err error) {
	out, err := d.stored(ctx, "create", "--json", d.target(), name)
	if err != nil {
		return r, err
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return r, json.Unmarshal([]byte(lines[len(lines)-1]), &r)
}

func (d *demo) firstSnapshotStep(ctx context.Context) error {
	_, size := d.files.count()
	return d.do(ctx, "snapshot", "storing a snapshot of the mounted volume in a directory", 0, func(s *step) error {
		if err := os.WriteFile(d.path(volKeyName), []byte(hex.EncodeToString(d.key)+"\n"), 0o600); err != nil {
			return err
		}
		if _, err := d.sealvol(ctx, "key", "generate", d.path(tenantName)); err != nil {
			return err
		}
		if _, err := d.sealvol(ctx, "snapshot", "init", "--store", d.storeURL(), "--tenant-file", d.path(tenantName)); err != nil {
			return err
		}
		r, err := d.snapshot(ctx, "first")
		s.result, s.sizeBytes = fmt.Sprintf("%d files; read %s, stored %s", r.Files, sizeText(r.Read), sizeText(r.Stored)), size
		return err
	})
}

func (d *demo) secondSnapshotStep(ctx context.Context) error {
	return d.do(ctx, "again", "changing one file, and storing another snapshot", 0, func(s *step) error {
		rel := filepath.Join(workName, "changed-after-the-first-snapshot.txt")
		if err := os.MkdirAll(filepath.Join(d.target(), workName), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(d.target(), rel), []byte("This line was written between two snapshots.\n"), 0o644); err != nil {
			return err
		}
		if err := errors.Join(d.files.enter(ctx, d.target(), workName, s.add), d.files.enter(ctx, d.target(), rel, s.add)); err != nil {
			return err
		}
		r, err := d.snapshot(ctx, "second")
		if err == nil && !r.Incremental {
			err = errors.New("the second snapshot is not incremental")
		}
		s.result = fmt.Sprintf("%d files; read %s, stored %s", r.Files, sizeText(r.Read), sizeText(r.Stored))
		return err
	})
}

func (d *demo) searchStoreStep(ctx context.Context) error {
	return d.do(ctx, "search", "searching the store for the same fragments and the keys", 0, func(s *step) error {
		b, err := os.ReadFile(d.path(tenantName))
		if err != nil {
			return err
		}
		d.files.needles.addContent(b)
		s.result = fmt.Sprintf("none of %d fragments is in the store", d.files.needles.len())
		return filepath.WalkDir(d.path(storeName), func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			n, err := d.files.needles.searchImage(ctx, path, s.add)
			s.sizeBytes += n
			return err
		})
	})
}

// destroyStep deletes the volume as a user would delete a claim.
func (d *demo) destroyStep(ctx context.Context) error {
	return d.do(ctx, "destroy", "unpublishing, unstaging, detaching and deleting the volume", 0, func(s *step) error {
		image := d.image()
		if err := calls(ctx, d.unbind, d.unstage, d.detach, d.delete); err != nil {
			return err
		}
		if _, err := os.Lstat(image); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the image still exists, %w", err)
		}
		s.result = "the image is gone"
		return nil
	})
}

func (d *demo) restoreStep(ctx context.Context) error {
	files, size := d.files.count()
	return d.do(ctx, "restore", "restoring the second snapshot into a new volume, with the store and the keys alone", 0, func(s *step) error {
		s.result, s.files, s.sizeBytes = fmt.Sprintf("a new volume of %s", sizeText(2*d.sizeBytes)), files, size
		if err := createSparse(d.path(restoredName), 2*d.sizeBytes); err != nil {
			return err
		}
		if _, err := d.stored(ctx, "restore", "second", d.path(restoredName)); err != nil {
			return err
		}
		if err := os.Mkdir(d.path(restoredDir), 0o755); err != nil {
			return err
		}
		_, err := d.sealvol(ctx, "mount", "--key-file", d.path(volKeyName), d.path(restoredName), d.path(restoredDir))
		return err
	})
}

func createSparse(path string, sizeBytes int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(sizeBytes), f.Close())
}

func (d *demo) verifyRestoredStep(ctx context.Context) error {
	files, size := d.files.count()
	return d.do(ctx, "verify", "verifying every file by SHA-256, in the restored volume", size, func(s *step) error {
		s.result, s.files, s.sizeBytes = fmt.Sprintf("%d files and directories are unchanged", files), files, size
		if err := d.files.verify(ctx, d.path(restoredDir), s.add); err != nil {
			return err
		}
		_, err := d.sealvol(ctx, "umount", d.path(restoredDir))
		return err
	})
}

func (d *demo) stopStep(ctx context.Context) error {
	return d.do(ctx, "stop", "stopping the driver", 0, func(s *step) error {
		if err := d.rig.stop(ctx); err != nil {
			return err
		}
		if err := awaitNoChildren(ctx); err != nil {
			return err
		}
		for _, name := range []string{storeName, tenantName, volKeyName, restoredName, restoredDir} {
			if err := os.RemoveAll(d.path(name)); err != nil {
				return err
			}
		}
		s.result = "no image, mount, record or process is left"
		return leftovers(d.dir)
	})
}
