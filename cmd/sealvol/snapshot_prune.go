package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/gc"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
)

type snapshotPrune struct {
	storedFlags
	undelete, grace age
	dryRun, json    bool
}

func snapshotPruneCommand() *cobra.Command {
	var o snapshotPrune
	c := &cobra.Command{
		Use:   "prune --store URL [--undelete AGE] [--grace AGE] [--dry-run]",
		Short: "Delete what no stored snapshot needs",
		Long: `Delete what no stored snapshot needs any more: the data of forgotten snapshots whose time
to be undeleted is over (--undelete), and of snapshots that were never finished. Data is
deleted in two passes: the first notes what nothing needs, and the next one that runs
after the grace (--grace) deletes it. So run prune regularly, such as every day.

No key is needed, and no lock: snapshots can be created, read and pruned at the same
time. What an object lock protects stays until the lock ends.

If the list of what a snapshot needs cannot be read, nothing is deleted. If snapshots
need data that the store has lost, prune says which, and the exit code is 4.`,
		Example: `  sealvol snapshot prune --store file:///backup
  sealvol snapshot prune --store file:///backup --dry-run --json`,
		Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			if err := o.wantStore(""); err != nil {
				return err
			}
			return o.run(ctx, c.OutOrStdout())
		},
	}
	f := c.Flags()
	o.registerStore(f)
	f.Var(&o.undelete, "undelete", "how long forgotten snapshots can be undeleted, such as 7d; 0: not at all (default 72h)")
	f.Var(&o.grace, "grace", "time between noting and deleting, such as 1h; 0: none; at least 24h in an eventual store (default 24h)")
	f.BoolVar(&o.dryRun, "dry-run", false, "show what would be deleted; change nothing")
	jsonFlag(c, &o.json)
	return c
}

// option returns what gc takes for a time: 0 is its default, negative is none.
func (a *age) option() time.Duration {
	if a.set && a.Duration == 0 {
		return -1
	}
	return a.Duration
}

// pruneReport is the JSON of prune.
type pruneReport struct {
	Store      string           `json:"store"`
	DryRun     bool             `json:"dryRun"`
	Snapshots  int              `json:"snapshots"`
	Unfinished int              `json:"unfinished"`
	Forgotten  []forgottenUntil `json:"forgotten"`
	Voided     []string         `json:"voided"`
	Kept       countReport      `json:"kept"`
	Garbage    countReport      `json:"garbage"`
	Condemned  countReport      `json:"condemned"`
	Deleted    countReport      `json:"deleted"`
	Locked     countReport      `json:"locked"`
	Missing    []missingReport  `json:"missing"`
	Foreign    int              `json:"foreign"`
	NextPass   *time.Time       `json:"nextPass,omitempty"`
	// Requests are those of the whole command.
	Requests chunkstore.Requests `json:"requests"`
}

type forgottenUntil struct {
	ID    string    `json:"id"`
	Until time.Time `json:"undeletableUntil"`
}

type countReport struct {
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

type missingReport struct {
	Snapshot string `json:"snapshot"`
	Pack     string `json:"pack"`
}

func (o *snapshotPrune) run(ctx context.Context, w io.Writer) error {
	s, err := o.open(ctx, nil)
	if err != nil {
		return err
	}
	defer s.end()
	g, err := gc.Prune(ctx, s.Objects(), gc.Options{Undelete: o.undelete.option(), Grace: o.grace.option(), DryRun: o.dryRun})
	if err != nil {
		return err // it names the store
	}
	r, err := o.report(ctx, s, g)
	if err != nil {
		return err
	}
	if o.json {
		err = writeJSON(w, r)
	} else {
		o.print(w, r)
	}
	if err == nil && len(r.Missing) > 0 {
		err = o.missing(r)
	}
	return err
}

func (o *snapshotPrune) report(ctx context.Context, s *stored, g *gc.Report) (*pruneReport, error) {
	count := func(c gc.Count) countReport { return countReport{c.Objects, c.Bytes} }
	r := &pruneReport{Store: s.ID().String(), DryRun: o.dryRun, Snapshots: g.Snapshots, Unfinished: g.Unfinished, Kept: count(g.Kept), Garbage: count(g.Garbage),
		Condemned: count(g.Condemned), Deleted: count(g.Deleted), Locked: count(g.Locked), Foreign: g.Foreign,
		Forgotten: []forgottenUntil{}, Voided: []string{}, Missing: []missingReport{}}
	r.Snapshots -= len(g.Forgotten) // they stay for now
	for _, id := range g.Forgotten {
		sn, err := s.Get(ctx, nil, id)
		if err != nil {
			return nil, o.wrap(err)
		}
		if sn.State == snapstore.Forgotten { // else it was undeleted meanwhile
			r.Forgotten = append(r.Forgotten, forgottenUntil{id.String(), undeletable(sn, o.undelete.option()).UTC()})
		}
	}
	for _, id := range g.Voided {
		r.Voided = append(r.Voided, id.String())
	}
	for _, m := range g.Missing {
		r.Missing = append(r.Missing, missingReport{m.Snapshot.String(), m.Pack.Key()})
	}
	if g.NextPass > 0 {
		r.NextPass = timeOf(time.Now().Add(g.NextPass))
	}
	r.Requests = s.meter.Requests()
	return r, nil
}

func (o *snapshotPrune) print(w io.Writer, r *pruneReport) {
	deleted, noted := "deleted", "noted as unneeded"
	if o.dryRun {
		deleted, noted = "would delete", "would note as unneeded"
	}
	size := func(c countReport) string {
		return fmt.Sprintf("%s (%s)", formatSize(c.Bytes), counted(c.Objects, "object"))
	}
	say(w, "kept %s, for %s: %d whole, %d forgotten, %d unfinished\n", size(r.Kept), counted(r.Snapshots+len(r.Forgotten)+r.Unfinished, "snapshot"),
		r.Snapshots, len(r.Forgotten), r.Unfinished)
	for _, f := range r.Forgotten {
		say(w, "%s was forgotten; it can be undeleted until %s\n", f.ID[:shortID], f.Until.Local().Format(time.DateTime))
	}
	for _, id := range r.Voided {
		say(w, "%s can no longer be undeleted or finished\n", id[:shortID])
	}
	say(w, "%s %s\n", deleted, size(r.Deleted))
	if r.Condemned.Objects > 0 {
		say(w, "%s %s\n", noted, size(r.Condemned))
	}
	if r.Locked.Objects > 0 {
		say(w, "%s are still under an object lock: a later run deletes them\n", size(r.Locked))
	}
	if r.Foreign > 0 {
		say(w, "left alone: %s of other programs\n", counted(r.Foreign, "object"))
	}
	if r.NextPass != nil {
		say(w, "run prune again after %s to delete what waits\n", r.NextPass.Local().Format(time.DateTime))
	}
}

// missing is the error that snapshots lack packs.
func (o *snapshotPrune) missing(r *pruneReport) error {
	per := map[string]int{}
	for _, m := range r.Missing {
		per[m.Snapshot]++
	}
	for _, id := range slices.Sorted(maps.Keys(per)) {
		n := per[id]
		say(os.Stderr, "snapshot %s: the store has lost %s that it needs, such as\n", id, counted(n, "pack"))
		for _, m := range r.Missing {
			if m.Snapshot == id {
				say(os.Stderr, "  %s\n", m.Pack)
				break
			}
		}
	}
	err := fmt.Errorf("%s cannot be read completely: the store has lost data", counted(len(per), "snapshot"))
	return &codeError{err: o.wrap(err), code: exitDamaged, hint: "restore the packs from another copy of the store; new snapshots may be incomplete as well if they are built on these: create a full one"}
}
