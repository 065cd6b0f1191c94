package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/local"
	"github.com/sealvol/sealvol/pkg/snapshot/lock"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
)

// storedJob creates one stored snapshot.
type storedJob struct {
	*snapshotCreate
	st     *stored
	src    *source
	base   format.ID // that was named; zero: none
	label  create.Label
	plan   *local.Plan
	locked lock.Report
	events *events
}

// stored creates a stored snapshot.
func (o *snapshotCreate) stored(ctx context.Context, w io.Writer, a []string) error {
	j := &storedJob{snapshotCreate: o}
	var err error
	if j.label, err = o.label(a); err != nil {
		return err
	}
	if err := o.key.one(); err != nil {
		return err
	}
	if j.st, err = o.open(ctx, &o.key); err != nil {
		return err
	}
	defer j.st.end()
	if err := j.st.wantTenant(); err != nil {
		return err
	}
	if o.base != "" {
		sn, _, err := j.st.find(ctx, o.base)
		if err == nil {
			err = o.wrap(sn.Check())
		}
		if err != nil {
			return err
		}
		j.base = sn.ID
	}
	if j.src, err = openSource(ctx, a[0], j.st.cred, &o.key); err != nil {
		return err
	}
	if j.src.live != nil {
		yieldToOthers()
	}
	if err := o.apart(a[0]); err != nil {
		return err
	}
	unlock, err := local.Lock(lockDir(), j.src.id, j.st.ID())
	if err != nil {
		return fmt.Errorf("%s: %w", a[0], err)
	}
	defer unlock()
	j.events = newEvents(w, "store", o.json)
	defer j.events.end()
	rep, err := j.run(ctx)
	if err != nil {
		return err
	}
	j.events.end()
	return j.report(w, rep)
}

// apart refuses a store inside the mounted volume: it would be lost with the volume, and each snapshot
// would contain the store.
func (o *snapshotCreate) apart(target string) error {
	dir, isDir := strings.CutPrefix(o.place(), "file://")
	var store, volume unix.Stat_t
	inside := isDir && unix.Stat(dir, &store) == nil && unix.Stat(target, &volume) == nil && volume.Mode&unix.S_IFMT == unix.S_IFDIR && store.Dev == volume.Dev
	if !inside {
		return nil
	}
	return withHint(fmt.Errorf("%s: the store %s is inside this volume, and would be lost with it", target, o.place()), "choose a directory on another file system, or S3")
}

// lockDir is where programs of this user keep files until the next restart.
func lockDir() string {
	if d := control.RuntimeDir(); d != "" {
		return d
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("sealvol-%d", os.Geteuid()))
}

// run makes the local snapshot, stores it, and cleans up.
func (j *storedJob) run(ctx context.Context) (*create.Report, error) {
	err := j.src.change(ctx, func(v local.Volume) (err error) {
		j.plan, err = local.Begin(ctx, v, local.Options{Store: j.st.Store, Tenant: j.st.tenant, Volume: j.src.id, Base: j.base, Fresh: j.fresh, Full: j.full})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", j.src.target, err)
	}
	j.warn(j.plan.Undeleted)
	if j.plan.Base == (format.ID{}) && j.plan.Foreign > 0 && !j.full {
		say(os.Stderr, "warning: the tenant secret opens no earlier snapshot of this volume, and does not open %d other snapshots in the store: check that it is the right one\n", j.plan.Foreign)
	}
	if j.plan.Earlier != nil && !j.json {
		say(os.Stderr, "resuming the interrupted snapshot %s; to begin again, use --fresh\n", short(j.plan.S.String()))
	}
	j.events.begin(&startedEvent{Event: "started", ID: j.plan.S.String(), Local: j.plan.Name, Resumed: j.plan.Earlier != nil})
	rep, err := j.store(ctx)
	if err != nil {
		return nil, j.failed(err)
	}
	j.warn(j.src.change(ctx, func(v local.Volume) error { return j.plan.Whole(ctx, v) }))
	return rep, nil
}

// failed cleans up after an error, if the next run cannot go on.
func (j *storedJob) failed(err error) error {
	if j.plan.Base != (format.ID{}) && isStoreDamage(err) {
		err = withHint(err, "the earlier snapshot that it builds on is damaged in the store: see `sealvol snapshot verify`; to build on nothing, use --full")
	}
	if j.plan.Resumable() {
		if hint(err) == "" {
			err = withHint(err, "run the command again: it resumes where this one ended")
		}
		return err
	}
	j.warn(j.src.change(context.Background(), func(v local.Volume) error { return v.Delete(context.Background(), j.plan.Name) }))
	return err
}

// warn tells of an error that does not concern the stored snapshot.
func (j *storedJob) warn(err error) {
	if err != nil {
		say(os.Stderr, "warning: %s: %v\n", j.src.target, err)
	}
}

// store stores the local snapshot.
func (j *storedJob) store(ctx context.Context) (*create.Report, error) {
	dev, err := j.src.device()
	if err != nil {
		return nil, err
	}
	defer discard(dev)
	defer limitMemory(create.MemoryLimit)() // opening the volume before and afterwards may need more
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	src, err := pinned.Open(j.src.paced(ctx, dev), pinned.Options{Credential: j.st.cred})
	if err != nil {
		return nil, j.key.explain(volumeError(dev, j.src.target, err))
	}
	defer src.Close()
	to, err := src.Snapshot(j.plan.Name)
	var from *pinned.State
	if err == nil && j.plan.BaseName != "" {
		if from, err = src.Snapshot(j.plan.BaseName); errors.Is(err, pinned.ErrNoSnapshot) {
			from, err = nil, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", j.src.target, err)
	}
	o, err := j.options(src)
	if err != nil {
		return nil, err
	}
	rep, err := create.Run(ctx, src.Identity(), from, to, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", j.place(), err)
	}
	return rep, nil
}

func (j *storedJob) options(src *pinned.Volume) (o create.Options, err error) {
	id, d := src.Identity(), j.st.Description()
	own, err := src.RecoveryRecipients()
	if err != nil {
		return o, fmt.Errorf("%s: %w", j.src.target, err)
	}
	o = create.Options{Store: j.st.Objects(), StoreID: j.st.ID(), Format: d, Tenant: j.st.tenant.Keys, Suite: id.Suite, Label: j.label,
		Writer: "sealvol " + version, Who: who(), Progress: j.events.created, Log: stderrLog(), BeforeCommit: j.extend}
	o.Recipients, err = j.recipientsOf(j.st.cred, own, id.Suite)
	j.plan.Fill(&o, j.st.cred)
	return o, err
}

// extend makes sure that nobody can delete what the snapshot needs while the store locks objects.
func (j *storedJob) extend(ctx context.Context, h *format.Head) (err error) {
	j.locked, err = lock.Extend(ctx, j.st.Objects(), h, lock.Options{})
	return err
}

func (j *storedJob) report(w io.Writer, rep *create.Report) error {
	requests := j.st.meter.Requests()
	r := &created{Event: "finished", ID: rep.S.String(), Handle: rep.Handle.String(), Name: j.label.Name, Volume: j.src.id.String(),
		Created: rep.Created.UTC().Format(time.RFC3339Nano), Incremental: rep.Full == "" && rep.Base != format.ID{}, Why: rep.Full, Resumed: j.plan.Earlier != nil,
		Files: rep.Files, Directories: rep.Dirs, Logical: rep.Logical, Read: rep.Read, Reused: rep.Kept, Stored: rep.Stored.Bytes, Packs: rep.Stored.Packs,
		Seconds: rep.Took.Round(time.Millisecond).String(), Millis: rep.Took.Milliseconds(), Local: j.plan.Name, Requests: requests}
	if rep.Base != (format.ID{}) {
		r.Base = rep.Base.String()
	}
	if !j.locked.Until.IsZero() {
		r.LockedUntil = j.locked.Until.UTC().Format(time.RFC3339)
	}
	if j.json {
		return writeLine(w, r)
	}
	r.print(w, j.src.target, requestText(requests))
	return nil
}

// requestText lists requests by kind.
func requestText(r chunkstore.Requests) string {
	s := fmt.Sprintf("%d get, %d put, %d list, %d stat, %d delete", r.Get, r.Put, r.List, r.Stat, r.Delete)
	if r.Lock > 0 {
		s += fmt.Sprintf(", %d lock", r.Lock)
	}
	return s
}
