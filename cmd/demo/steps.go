package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// demo is one run.
type demo struct {
	rig
	opt   options
	line  *timeline
	files *manifest // the expected content of the volume

	treeFiles int
	treeBytes int64
	sizeBytes int64 // of the volume
}

const (
	minVolumeBytes = 1 << 30
	treeName       = "src"
	workName       = "work"
)

// do runs one step. f sets its result.
func (d *demo) do(ctx context.Context, name, what string, totalBytes int64, f func(*step) error) error {
	if err := ctx.Err(); err != nil || d.opt.skips(name) {
		return err
	}
	s := d.line.begin(name, what, totalBytes)
	err := f(s)
	if err == nil {
		err = ctx.Err()
	}
	s.end(err)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// calls makes CSI calls one after the other.
func calls(ctx context.Context, list ...func(context.Context) error) error {
	for _, f := range list {
		if err := f(ctx); err != nil {
			return err
		}
	}
	return nil
}

// steps runs the steps of the demo.
func (d *demo) steps(ctx context.Context) error {
	for _, f := range []func(context.Context) error{
		d.startStep, d.createStep,
		d.copyStep, d.verifyStep("the copy"),
		d.sqliteStep, d.compileStep, d.verifyStep("the files of the programs"),
		d.controlStep, d.imageStep("while it is mounted"),
		d.killStep, d.verifyStep("after the crash"),
		d.expandStep, d.verifyStep("the grown volume"),
		d.downStep, d.imageStep("on the disk, while unmounted"),
		d.upStep, d.verifyStep("on a fresh mount"),
		d.firstSnapshotStep, d.secondSnapshotStep, d.searchStoreStep,
		d.destroyStep, d.restoreStep, d.verifyRestoredStep, d.stopStep,
	} {
		if err := f(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) startStep(ctx context.Context) error {
	return d.do(ctx, "driver", "starting the driver (role all, local backend) in "+d.dir, 0, func(s *step) error {
		s.result = "answers on its CSI socket"
		return d.rig.start(ctx, d.opt.driver)
	})
}

func (d *demo) createStep(ctx context.Context) error {
	return d.do(ctx, "create", "creating, attaching, staging and publishing a volume", 0, func(s *step) error {
		var err error
		if d.treeFiles, d.treeBytes, err = treeSize(ctx, d.opt.tree); err != nil {
			return err
		}
		d.sizeBytes = max(minVolumeBytes, 3*d.treeBytes&^(1<<20-1))
		s.result = fmt.Sprintf("volume of %s, encrypted, at %s", sizeText(d.sizeBytes), d.target())
		return calls(ctx, func(ctx context.Context) error { return d.create(ctx, d.sizeBytes) }, d.attach, d.stage, d.bind)
	})
}

func (d *demo) copyStep(ctx context.Context) error {
	return d.do(ctx, "copy", fmt.Sprintf("copying %s (%d files) and syncing", d.opt.tree, d.treeFiles), d.treeBytes, func(s *step) error {
		if err := d.files.copyTree(ctx, d.opt.tree, d.target(), treeName, s.add); err != nil {
			return err
		}
		s.result, s.files, s.sizeBytes = fmt.Sprintf("%d files", d.treeFiles), d.treeFiles, d.treeBytes
		return syncVolume(d.target())
	})
}

func (d *demo) verifyStep(what string) func(context.Context) error {
	return func(ctx context.Context) error {
		files, size := d.files.count()
		return d.do(ctx, "verify", "verifying every file by SHA-256, "+what, size, func(s *step) error {
			s.result, s.files, s.sizeBytes = fmt.Sprintf("%d files and directories are unchanged", files), files, size
			return d.files.verify(ctx, d.target(), s.add)
		})
	}
}

func (d *demo) controlStep(ctx context.Context) error {
	_, size := d.files.count()
	return d.do(ctx, "control", "searching the files for fragments of their names and contents", size, func(s *step) error {
		s.result, s.sizeBytes = fmt.Sprintf("all %d fragments are found in the plaintext", d.files.needles.len()), size
		return d.files.searchFiles(ctx, d.target(), s.add)
	})
}

func (d *demo) imageStep(when string) func(context.Context) error {
	return func(ctx context.Context) error {
		d.addKey()
		var st unix.Stat_t
		if err := unix.Stat(d.image(), &st); err != nil {
			return err
		}
		allocated := st.Blocks * 512 // stat(2): always in units of 512 bytes
		return d.do(ctx, "search", "searching the image for the same fragments and the key, "+when, allocated, func(s *step) (err error) {
			s.result = fmt.Sprintf("none of %d fragments is in the image", d.files.needles.len())
			if s.sizeBytes, err = d.files.needles.searchImage(ctx, d.image(), s.add); err == nil && s.sizeBytes < d.treeBytes/2 {
				err = fmt.Errorf("the image contains only %s of data, so the files cannot be in it", sizeText(s.sizeBytes))
			}
			return err
		})
	}
}

// addKey adds both forms of the key to the needles.
func (d *demo) addKey() {
	d.files.needles.addContent(d.key)
	d.files.needles.addContent([]byte(d.secrets()["kek"]))
}

func (d *demo) killStep(ctx context.Context) error {
	return d.do(ctx, "kill", "killing the mount server with SIGKILL while a program writes, and mounting again", 0, func(s *step) error {
		h, err := d.mounter().Health(ctx, d.volume)
		if err != nil {
			return err
		}
		j, err := startJournal(d.target())
		if err != nil {
			return err
		}
		defer j.stop()
		if err := j.await(ctx, 20); err != nil {
			return err
		}
		if err := unix.Kill(h.PID, unix.SIGKILL); err != nil {
			return fmt.Errorf("kill the mount server %d: %w", h.PID, err)
		}
		if err := awaitEnd(ctx, h.PID); err != nil {
			return err
		}
		after, err := d.revive(ctx, h.PID)
		if err != nil {
			return err
		}
		synced := j.stop()
		if err := j.check(d.target(), synced); err != nil {
			return err
		}
		s.result = fmt.Sprintf("server %d replaced %d; all %d synced lines are present", after, h.PID, synced)
		return d.files.enter(ctx, d.target(), journalName, s.add)
	})
}

// revive publishes again, like the kubelet does periodically (requiresRepublish), until a new
// server serves the volume. The mounter may notice the death of the old one a moment later than the
// demo.
func (d *demo) revive(ctx context.Context, dead int) (pid int, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		if err := d.bind(ctx); err != nil {
			return 0, err
		}
		h, err := d.mounter().Health(ctx, d.volume)
		if err != nil {
			return 0, err
		}
		if h.Alive && h.PID != dead {
			return h.PID, nil
		}
	}
}

func (d *demo) expandStep(ctx context.Context) error {
	return d.do(ctx, "expand", "doubling the volume while it is in use", 0, func(s *step) error {
		before, err := d.totalBytes(ctx)
		if err != nil {
			return err
		}
		if err := d.expand(ctx, 2*d.sizeBytes); err != nil {
			return err
		}
		after, err := d.totalBytes(ctx)
		if err != nil {
			return err
		}
		if after < before+d.sizeBytes*9/10 {
			return fmt.Errorf("the volume did not grow: it had %s for files and now has %s", sizeText(before), sizeText(after))
		}
		s.result = fmt.Sprintf("the space for files grew from %s to %s", sizeText(before), sizeText(after))
		return nil
	})
}

func (d *demo) downStep(ctx context.Context) error {
	return d.do(ctx, "down", "unpublishing and unstaging", 0, func(s *step) error {
		s.result = "nothing is mounted"
		if err := calls(ctx, d.unbind, d.unstage); err != nil {
			return err
		}
		infos, err := mountsBelow(d.dir)
		if err == nil && len(infos) > 0 {
			err = fmt.Errorf("%s is still mounted", infos[0].Mountpoint)
		}
		return err
	})
}

func (d *demo) upStep(ctx context.Context) error {
	return d.do(ctx, "up", "staging and publishing again", 0, func(s *step) error {
		s.result = "mounted"
		return calls(ctx, d.stage, d.bind)
	})
}

// explain prints the end of the logs of the driver and its mounter.
func (d *demo) explain(w io.Writer) {
	for _, l := range d.logs() {
		if t := tail(l, 15); t != "" {
			printTo(w, "the end of %s:\n  %s\n", strings.TrimPrefix(l, d.dir+"/"), strings.ReplaceAll(t, "\n", "\n  "))
		}
	}
}
