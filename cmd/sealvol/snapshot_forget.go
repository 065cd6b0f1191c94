package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/gc"
	"github.com/sealvol/sealvol/pkg/snapshot/retention"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
)

func (f *filterFlags) register(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.volumes, "volume", nil, "with --store: only snapshots of the volume with this UUID; may be repeated")
	flags.StringArrayVar(&f.claims, "claim", nil, "with --store: only snapshots of this claim, NAMESPACE/NAME; may be repeated")
	flags.StringArrayVar(&f.tags, "tag", nil, "with --store: only snapshots with this tag, NAME or NAME=VALUE; if repeated, with all of them")
	flags.Var(&f.before, "before", "with --store: only snapshots from before this time, such as 2026-11-30")
	flags.Var(&f.after, "after", "with --store: only snapshots from this time on")
}

// filterNames are the flags of filterFlags.
var filterNames = []string{"volume", "claim", "tag", "before", "after"}

type snapshotForget struct {
	storedFlags
	key           keyFlags
	filter        filterFlags
	policy        retention.Policy
	within        age
	groupBy, zone string
	dryRun, json  bool
}

func snapshotForgetCommand() *cobra.Command {
	var o snapshotForget
	c := &cobra.Command{
		Use:   "forget --store URL [--keep-RULE N]... [--dry-run] | --store URL SNAPSHOT...",
		Short: "Forget stored snapshots, by name or by rules",
		Long: `Forget stored snapshots: those that are named, or those that no --keep rule keeps. A
forgotten snapshot can be undeleted for some days (72 hours, see sealvol snapshot
prune). Then prune deletes its data.

The rules look at each volume on its own, and at whole snapshots alone. --keep-daily 7
keeps the newest snapshot of each of the newest 7 days that have any; the other rules
count hours, weeks, months and years. A snapshot stays if any rule keeps it, if a
process reads it or builds on it, and if it is the newest of its volume. --dry-run
shows what each rule would do.

By an id or a handle, no key is needed. Rules and names need --tenant-file, or a key
that opens the copy of the tenant secret in the store.`,
		Example: `  sealvol snapshot forget --store file:///backup --tenant-file tenant.key --keep-daily 7 --keep-weekly 4 --dry-run
  sealvol snapshot forget --store file:///backup 4f1c2ab09d3e`,
		Args: args(0, -1, "SNAPSHOTs or rules"),
		RunE: func(c *cobra.Command, a []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			if err := o.check(c, a); err != nil {
				return err
			}
			return o.run(ctx, c.OutOrStdout(), a)
		},
	}
	f := c.Flags()
	o.register(f)
	o.key.register(f)
	o.filter.register(f)
	for _, r := range []struct {
		name string
		n    *int
		what string
	}{
		{"last", &o.policy.Last, "snapshots"}, {"hourly", &o.policy.Hourly, "hours with snapshots"}, {"daily", &o.policy.Daily, "days with snapshots"},
		{"weekly", &o.policy.Weekly, "weeks with snapshots"}, {"monthly", &o.policy.Monthly, "months with snapshots"}, {"yearly", &o.policy.Yearly, "years with snapshots"},
	} {
		what := "keep the newest of each of the newest N " + r.what
		if r.name == "last" {
			what = "keep the newest N snapshots"
		}
		f.IntVar(r.n, "keep-"+r.name, 0, what)
	}
	f.Var(&o.within, "keep-within", "keep what is at most this much older than the newest, such as 48h, 30d, 8w, 1y")
	f.StringArrayVar(&o.policy.Tags, "keep-tag", nil, "keep snapshots with this tag, NAME or NAME=VALUE; may be repeated")
	f.StringVar(&o.groupBy, "group-by", "volume", "apply the rules to each volume or to each claim")
	f.StringVar(&o.zone, "time-zone", "", "where days begin, such as Europe/Berlin (default: the local time zone)")
	f.BoolVar(&o.dryRun, "dry-run", false, "show what would be forgotten, and why; change nothing")
	jsonFlag(c, &o.json)
	return c
}

// hasRules reports whether any rule was given.
func (o *snapshotForget) hasRules() bool {
	p := &o.policy
	return p.Last != 0 || p.Hourly != 0 || p.Daily != 0 || p.Weekly != 0 || p.Monthly != 0 || p.Yearly != 0 || o.within.set || len(p.Tags) > 0
}

func (o *snapshotForget) check(c *cobra.Command, a []string) error {
	if err := o.wantStore("delete"); err != nil {
		return err
	}
	o.policy.Within, o.policy.Zone = o.within.Duration, time.Local
	if o.zone != "" {
		z, err := time.LoadLocation(o.zone)
		if err != nil {
			return usageError(fmt.Errorf("--time-zone: %w", err))
		}
		o.policy.Zone = z
	}
	if err := o.policy.Validate(); err != nil {
		return usageError(err)
	}
	if o.groupBy != "volume" && o.groupBy != "claim" {
		return usageError(fmt.Errorf("--group-by %s: must be volume or claim", o.groupBy))
	}
	filtered := slices.ContainsFunc(filterNames, c.Flags().Changed)
	switch {
	case len(a) > 0 && (o.hasRules() || filtered):
		return usageError(errors.New("give SNAPSHOTs, or rules and filters, not both"))
	case len(a) == 0 && !o.hasRules():
		return usageError(errors.New("nothing says which snapshots to forget: give SNAPSHOTs, or at least one rule such as --keep-daily 7"))
	}
	return nil
}

// forgetVerdict is what happens to a snapshot, as JSON.
type forgetVerdict struct {
	*storedSnapshot
	Keep    bool     `json:"keep"`
	Reasons []string `json:"reasons"`
}

func (o *snapshotForget) run(ctx context.Context, w io.Writer, names []string) error {
	s, err := o.open(ctx, &o.key)
	if err != nil {
		return err
	}
	defer s.end()
	var all []forgetVerdict
	if len(names) > 0 {
		all, err = o.named(ctx, s, names)
	} else {
		all, err = o.ruled(ctx, s)
	}
	if err != nil {
		return err
	}
	done := 0
	for _, v := range all {
		if v.Keep || o.dryRun {
			continue
		}
		id, err := format.ParseID(v.ID)
		if err == nil {
			err = commit.Forget(ctx, s.Objects(), id, who())
		}
		if err != nil {
			return o.wrap(fmt.Errorf("%d forgotten, then: %w", done, err))
		}
		done++
	}
	return o.print(w, all)
}

// named are the snapshots with these names.
func (o *snapshotForget) named(ctx context.Context, s *stored, names []string) (all []forgetVerdict, err error) {
	for _, name := range names {
		sn, _, err := s.find(ctx, name)
		if err != nil {
			return nil, err
		}
		switch sn.State {
		case snapstore.Unfinished, snapstore.Void:
			return nil, o.wrap(sn.Check())
		case snapstore.Forgotten:
			all = append(all, forgetVerdict{s.report(sn), true, []string{"was forgotten before; see undelete"}})
		default:
			if !slices.ContainsFunc(all, func(v forgetVerdict) bool { return v.ID == sn.ID.String() }) {
				all = append(all, forgetVerdict{s.report(sn), false, []string{"it was named"}})
			}
		}
	}
	return all, nil
}

// ruled applies the rules.
func (o *snapshotForget) ruled(ctx context.Context, s *stored) (all []forgetVerdict, err error) {
	list, _, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	var in []retention.Snapshot
	byID := map[string]*snapstore.Snapshot{}
	for i := range list {
		sn := &list[i]
		if sn.Card == nil || !o.filter.match(sn) {
			continue
		}
		r := retention.Snapshot{ID: sn.ID.String(), Group: o.group(sn), Created: time.Unix(0, sn.Card.Created), Whole: sn.State == snapstore.Whole, Tags: sn.Card.Tags}
		for _, l := range sn.Leases {
			r.Held = l.Who
		}
		byID[r.ID] = sn
		in = append(in, r)
	}
	decisions, err := retention.Apply(&o.policy, in)
	if err != nil {
		return nil, usageError(err)
	}
	for i := range decisions {
		d := &decisions[i]
		all = append(all, forgetVerdict{s.report(byID[d.ID]), d.Keep, d.Reasons})
	}
	return all, nil
}

func (o *snapshotForget) group(sn *snapstore.Snapshot) string {
	if o.groupBy == "claim" && sn.Card.Claim != "" {
		return sn.Card.Claim
	}
	return crypto.UUID(sn.Card.Volume).String()
}

func (o *snapshotForget) print(w io.Writer, all []forgetVerdict) error {
	if o.json {
		if all == nil {
			all = []forgetVerdict{}
		}
		return writeJSON(w, struct {
			DryRun    bool            `json:"dryRun"`
			Snapshots []forgetVerdict `json:"snapshots"`
		}{o.dryRun, all})
	}
	forgotten := 0
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for i, v := range all {
		if i == 0 {
			say(t, "ID\tNAME\tCREATED\tVOLUME\tWHAT\tWHY\n")
		}
		what := "keep"
		switch {
		case v.State == snapstore.Forgotten:
			what = "forgotten"
		case !v.Keep:
			what, forgotten = "forget", forgotten+1
		}
		name, created, source := v.Name, "-", v.Claim
		if v.Created != nil {
			created = v.Created.Local().Format(time.DateTime)
		}
		if source == "" {
			source = v.Volume
		}
		say(t, "%s\t%s\t%s\t%s\t%s\t%s\n", v.ID[:shortID], orDash(name), created, orDash(source), what, printable(strings.Join(v.Reasons, "; ")))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if o.dryRun {
		say(w, "would forget %d of %d\n", forgotten, len(all))
	} else {
		say(w, "forgot %d of %d\n", forgotten, len(all))
	}
	return nil
}

// orDash returns text for a column of a table.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return printable(s)
}

func snapshotUndeleteCommand() *cobra.Command {
	var from storedFlags
	var key keyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "undelete --store URL SNAPSHOT...",
		Short: "Take back that stored snapshots were forgotten",
		Long: `Take back that snapshots were forgotten, as long as prune has not begun to delete them.
By an id or a handle, no key is needed.`,
		Example: `  sealvol snapshot list --store file:///backup --tenant-file tenant.key --all
  sealvol snapshot undelete --store file:///backup 4f1c2ab09d3e`,
		Args: args(1, -1, "at least one SNAPSHOT"),
		RunE: func(c *cobra.Command, a []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			if err := from.wantStore(""); err != nil {
				return err
			}
			s, err := from.open(ctx, &key)
			if err != nil {
				return err
			}
			defer s.end()
			done := []*storedSnapshot{}
			for _, name := range a {
				sn, err := s.undelete(ctx, name)
				if err != nil {
					return err
				}
				done = append(done, s.report(sn))
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), struct {
					Snapshots []*storedSnapshot `json:"snapshots"`
				}{done})
			}
			for _, r := range done {
				say(c.OutOrStdout(), "%s: %s\n", r.ID, r.State)
			}
			return nil
		},
	}
	from.register(c.Flags())
	key.register(c.Flags())
	jsonFlag(c, &asJSON)
	return c
}

func (s *stored) undelete(ctx context.Context, name string) (*snapstore.Snapshot, error) {
	sn, _, err := s.find(ctx, name)
	if err != nil {
		return nil, err
	}
	if sn.State == snapstore.Unfinished {
		return nil, s.flags.wrap(sn.Check())
	}
	if err := commit.Undelete(ctx, s.Objects(), sn.ID); err != nil {
		if sn.State == snapstore.Void && errors.Is(err, commit.ErrNoBase) {
			err = fmt.Errorf("snapshot %s: %w", sn.ID, snapstore.ErrTooLate)
		}
		return nil, s.flags.wrap(err)
	}
	sn, err = s.Get(ctx, s.tenant, sn.ID)
	return sn, s.flags.wrap(err)
}

// undeletable returns until when a forgotten snapshot can be undeleted.
func undeletable(sn *snapstore.Snapshot, undelete time.Duration) time.Time {
	if undelete == 0 {
		undelete = gc.DefaultUndelete
	}
	return sn.Forgotten.Add(max(undelete, 0))
}
