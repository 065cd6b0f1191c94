package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/sealvol/sealvol/pkg/snapshot/reading"
	"github.com/sealvol/sealvol/pkg/snapshot/restore"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/volume/vfs/copyout"
)

// maxFailures is the most entries that are listed one by one.
const maxFailures = 1000

// failedEvent is the JSON of an entry that was not restored completely.
type failedEvent struct {
	Event string `json:"event"`
	Path  string `json:"path"`
	Error string `json:"error"`
}

// directory restores files to a directory.
func (o *snapshotRestore) directory(ctx context.Context, w io.Writer, s *stored, r *reading.Snapshot, sn *snapstore.Snapshot, dir string) error {
	begin := time.Now()
	if strings.HasSuffix(dir, "/") || len(o.paths) > 1 {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	paths := o.paths
	if len(paths) == 0 {
		paths = []string{"/"}
	}
	rep := &restoredReport{Event: "finished", ID: sn.ID.String(), Target: dir}
	events := newEvents(w, "restore", o.json)
	defer events.end()
	events.begin(&startedEvent{Event: "started", ID: rep.ID})
	c := copyout.Options{All: true, Privileged: o.privileged, Fetch: restore.NewFiles(ctx, r.RestoreSource()), Interrupted: ctx.Err}
	if len(o.paths) == 0 { // else nobody knows how much it is
		c.Total = r.Body.LogicalBytes
	}
	copied := uint64(0)
	c.Progress = func(done, _ uint64) {
		copied = done
		events.progress(&progressEvent{Step: "restored", Bytes: done, BytesTotal: c.Total})
	}
	c.Failed = func(path string, err error) {
		if errors.Is(err, copyout.ErrDevice) {
			err = fmt.Errorf("%w: see --privileged", err)
		}
		if rep.Failed++; o.json {
			_ = writeLine(w, &failedEvent{"failed", path, err.Error()})
		} else if rep.Failed <= maxFailures {
			say(os.Stderr, "%s: %v\n", printable(path), err)
		}
	}
	result, err := copyout.Copy(r.View(ctx), paths, dir, c)
	events.end()
	if err != nil && !errors.Is(err, copyout.ErrIncomplete) {
		if ctx.Err() != nil {
			err = withHint(err, "run the command again: what is there already is not restored again")
		}
		return err
	}
	rep.Files, rep.Present, rep.Stripped, rep.Logical = result.Entries, result.Present, result.Stripped, copied
	rep.Millis, rep.Requests = time.Since(begin).Milliseconds(), s.meter.Requests()
	if o.json {
		return errors.Join(err, writeLine(w, rep))
	}
	o.print(w, rep, time.Since(begin), requestText(s.meter.Requests()))
	return err
}

func (o *snapshotRestore) print(w io.Writer, r *restoredReport, took time.Duration, requests string) {
	if n := r.Failed - maxFailures; n > 0 {
		say(os.Stderr, "%d more entries were not restored completely\n", n)
	}
	what := fmt.Sprintf("%s, %s of content", countedEntries(r.Files), formatSize(int64(r.Logical)))
	if r.Present > 0 {
		what += fmt.Sprintf(", %d of them were there already", r.Present)
	}
	say(w, "%s: restored from snapshot %s: %s, in %s\n", printable(r.Target), short(r.ID), what, took.Round(time.Millisecond))
	if r.Stripped > 0 {
		say(w, "  %d files had set-user-ID or set-group-ID bits or capabilities, which were left out: see --privileged\n", r.Stripped)
	}
	if os.Geteuid() != 0 {
		say(w, "  owners were not restored: only root can do that\n")
	}
	say(w, "  requests: %s\n", requests)
}
