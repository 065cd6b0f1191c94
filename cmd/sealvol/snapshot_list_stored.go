package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
)

// storedSnapshot is the JSON of a stored snapshot.
type storedSnapshot struct {
	ID        string            `json:"id"`
	State     snapstore.State   `json:"state"`
	Handle    string            `json:"handle"`
	Name      string            `json:"name,omitempty"`
	Created   *time.Time        `json:"created,omitempty"`
	Finished  *time.Time        `json:"finished,omitempty"`
	Committed *time.Time        `json:"committed,omitempty"` // by the store's clock
	Forgotten *time.Time        `json:"forgotten,omitempty"` // by the store's clock
	Volume    string            `json:"volume,omitempty"`
	Claim     string            `json:"claim,omitempty"`
	Host      string            `json:"host,omitempty"`
	Parent    string            `json:"parent,omitempty"`
	Logical   *uint64           `json:"logicalBytes,omitempty"`
	Stored    *uint64           `json:"storedBytes,omitempty"`
	Files     *uint64           `json:"files,omitempty"`
	Tags      map[string]string `json:"tags,omitempty"`
	Leases    []storedLease     `json:"leases,omitempty"`
	Error     string            `json:"error,omitempty"`
	*storedDetails
}

type storedLease struct {
	Use     string    `json:"use"` // "writing", "reading"
	Who     string    `json:"who"`
	Expires time.Time `json:"expires"`
}

// storedDetails is what show adds.
type storedDetails struct {
	Packs      uint32   `json:"packs"`
	PackBytes  uint64   `json:"packBytes"`
	Lineage    string   `json:"lineage"`
	Slots      []string `json:"slots"`
	Verified   bool     `json:"verified"` // with the snapshot's key: the manifest is authentic
	Generation *uint64  `json:"generation,omitempty"`
	Dirs       *uint64  `json:"directories,omitempty"`
	ChunkBytes *uint32  `json:"chunkBytes,omitempty"`
	Writer     string   `json:"writer,omitempty"`
}

// timeOf is nil for the zero time.
func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func (s *stored) report(sn *snapstore.Snapshot) *storedSnapshot {
	r := &storedSnapshot{ID: sn.ID.String(), State: sn.State, Handle: s.Handle(sn).String(), Committed: timeOf(sn.Committed), Forgotten: timeOf(sn.Forgotten)}
	if err := sn.Err; err != nil {
		r.Error = err.Error()
	}
	for _, l := range sn.Leases {
		use := "writing"
		if l.Use == format.Reading {
			use = "reading"
		}
		r.Leases = append(r.Leases, storedLease{use, l.Who, l.Expires.UTC()})
	}
	c := sn.Card
	if c == nil {
		return r
	}
	r.Name, r.Claim, r.Host, r.Tags = c.Name, c.Claim, c.Host, c.Tags
	r.Created, r.Finished = timeOf(time.Unix(0, c.Created)), timeOf(time.Unix(0, c.Finished))
	r.Volume, r.Logical, r.Stored, r.Files = crypto.UUID(c.Volume).String(), &c.LogicalBytes, &c.StoredBytes, &c.Files
	if c.Parent != (format.ID{}) {
		r.Parent = c.Parent.String()
	}
	return r
}

// filterFlags say which stored snapshots a command is about.
type filterFlags struct {
	volumes, claims, tags []string
	before, after         moment
}

// list returns the snapshots of the tenant, and how many of others there are. That nothing opens
// with the tenant secret is an error.
func (s *stored) list(ctx context.Context) (list []snapstore.Snapshot, others int, err error) {
	if err := s.wantTenant(); err != nil {
		return nil, 0, err
	}
	all, err := s.List(ctx, s.tenant)
	if err != nil {
		return nil, 0, s.flags.wrap(err)
	}
	opened := 0
	for i := range all {
		switch sn := &all[i]; {
		case errors.Is(sn.Err, snapstore.ErrTenant):
			others++
			continue
		case sn.Card != nil:
			opened++
		}
		list = append(list, all[i])
	}
	if opened == 0 && others > 0 {
		return nil, 0, s.flags.wrap(fmt.Errorf("%w: %d whole ones do not", snapstore.ErrWrongTenant, others))
	}
	return list, others, nil
}

func listStored(ctx context.Context, f *storedFlags, key *keyFlags, w, notes io.Writer, filter *filterFlags, all, asJSON bool) error {
	s, err := f.open(ctx, key)
	if err != nil {
		return err
	}
	defer s.end()
	list, others, err := s.list(ctx)
	if err != nil {
		return err
	}
	hidden := map[snapstore.State]int{}
	shown := []*storedSnapshot{}
	for i := range list {
		sn := &list[i]
		if !all && sn.State != snapstore.Whole && sn.State != snapstore.Damaged {
			hidden[sn.State]++
			continue
		}
		if filter.match(sn) {
			shown = append(shown, s.report(sn))
		}
	}
	if asJSON {
		return writeJSON(w, struct {
			Store     string            `json:"store"`
			Tenant    string            `json:"tenant"`
			Snapshots []*storedSnapshot `json:"snapshots"`
			Others    int               `json:"others"`
		}{s.ID().String(), s.tenant.Fingerprint.String(), shown, others})
	}
	if err := printStored(w, shown); err != nil {
		return err
	}
	for _, state := range slices.Sorted(maps.Keys(hidden)) {
		say(notes, "%d %s: not shown without --all\n", hidden[state], state)
	}
	if others > 0 {
		say(notes, "%d of other tenants, or with a damaged or exchanged card: not shown\n", others)
	}
	return nil
}

// match reports whether the filters let a snapshot pass. One without a card passes if there are
// none.
func (f *filterFlags) match(sn *snapstore.Snapshot) bool {
	if sn.Card == nil {
		return len(f.volumes)+len(f.claims)+len(f.tags) == 0 && f.before.IsZero() && f.after.IsZero()
	}
	if len(f.volumes)+len(f.claims) > 0 && !slices.ContainsFunc(slices.Concat(f.volumes, f.claims), sn.IsOf) {
		return false
	}
	for _, t := range f.tags {
		name, value, exact := strings.Cut(t, "=")
		if got, ok := sn.Card.Tags[name]; !ok || exact && got != value {
			return false
		}
	}
	created := time.Unix(0, sn.Card.Created)
	return (f.after.IsZero() || !created.Before(f.after.Time)) && (f.before.IsZero() || created.Before(f.before.Time))
}

const shortID = 12 // digits of an id in a list

func printStored(w io.Writer, list []*storedSnapshot) error {
	if len(list) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	say(t, "ID\tNAME\tCREATED\tVOLUME\tSIZE\tSTORED\tFILES\tSTATE\n")
	for _, s := range list {
		if s.Volume == "" {
			say(t, "%s\t-\t-\t-\t-\t-\t-\t%s\n", s.ID[:shortID], s.State)
			continue
		}
		source, name := s.Claim, "-"
		if source == "" {
			source = s.Volume
		}
		if s.Name != "" {
			name = s.Name
		}
		say(t, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", s.ID[:shortID], printable(name), s.Created.Local().Format(time.DateTime), printable(source),
			formatSize(int64(*s.Logical)), formatSize(int64(*s.Stored)), *s.Files, s.State)
	}
	return t.Flush()
}

// showStored prints the details of stored snapshots.
func showStored(ctx context.Context, f *storedFlags, key *keyFlags, w io.Writer, names []string, asJSON bool) error {
	s, err := f.open(ctx, key)
	if err != nil {
		return err
	}
	defer s.end()
	if err := s.wantTenant(); err != nil {
		return err
	}
	reports := []*storedSnapshot{}
	for _, name := range names {
		sn, want, err := s.find(ctx, name)
		if err != nil {
			return err
		}
		r := s.report(sn)
		if sn.State == snapstore.Whole {
			if r.storedDetails, err = s.details(ctx, sn, want); err != nil {
				return f.wrap(key.explain(err))
			}
		}
		reports = append(reports, r)
	}
	if asJSON {
		return writeJSON(w, struct {
			Snapshots []*storedSnapshot `json:"snapshots"`
		}{reports})
	}
	for i, r := range reports {
		if i > 0 {
			say(w, "\n")
		}
		printStoredDetails(w, r)
	}
	return nil
}

// details reads the manifest, and opens it if there is a key.
func (s *stored) details(ctx context.Context, sn *snapstore.Snapshot, want *format.Sum) (*storedDetails, error) {
	h, _, err := s.Head(ctx, sn)
	if err != nil {
		return nil, err
	}
	d := &storedDetails{Packs: h.Packs, PackBytes: h.Bytes, Lineage: h.Lineage.String(), Slots: []string{}}
	slots, err := s.SnapshotKeys(sn.ID).Slots(ctx)
	if err != nil && !errors.Is(err, snapstore.ErrNoKeys) {
		return nil, err
	}
	if err == nil {
		d.Slots = slotTypes(slots)
	}
	if s.cred == nil {
		return d, nil
	}
	sk, err := s.SnapshotKey(ctx, sn.ID, s.cred)
	if s.flags.tenantFile == "" && (errors.Is(err, snapstore.ErrNoSlot) || errors.Is(err, snapstore.ErrNoKeys)) {
		return d, nil // the key was given for the tenant secret
	}
	if err != nil {
		return nil, err
	}
	defer sk.Erase()
	m, err := s.Manifest(ctx, sn, want, sk)
	if err != nil {
		return nil, err
	}
	b := m.Body
	d.Verified, d.Generation, d.Dirs, d.ChunkBytes, d.Writer = true, &b.Generation, &b.Dirs, &b.ChunkBytes, b.Writer
	return d, nil
}

func printStoredDetails(w io.Writer, s *storedSnapshot) {
	line := func(name, format string, args ...any) { say(w, "%-12s %s\n", name+":", fmt.Sprintf(format, args...)) }
	at := func(name string, t *time.Time) {
		if t != nil {
			line(name, "%s", t.Local().Format(time.RFC3339))
		}
	}
	text := func(name, s string) {
		if s != "" {
			line(name, "%s", printable(s))
		}
	}
	line("ID", "%s", s.ID)
	text("Name", s.Name)
	line("State", "%s", s.State)
	line("Handle", "%s", s.Handle)
	at("Created", s.Created)
	at("Committed", s.Committed)
	at("Forgotten", s.Forgotten)
	text("Volume", s.Volume)
	text("Claim", s.Claim)
	text("Host", s.Host)
	text("Parent", s.Parent)
	if s.Logical != nil {
		line("Size", "%s (%d bytes)", formatSize(int64(*s.Logical)), *s.Logical)
		line("Stored", "%s (%d bytes)", formatSize(int64(*s.Stored)), *s.Stored)
		line("Files", "%d", *s.Files)
	}
	for _, k := range slices.Sorted(maps.Keys(s.Tags)) {
		line("Tag", "%s=%s", printable(k), printable(s.Tags[k]))
	}
	if d := s.storedDetails; d != nil {
		line("Needs", "%s, %s (%d bytes)", counted(d.Packs, "pack"), formatSize(int64(d.PackBytes)), d.PackBytes)
		line("Key slots", "%s", strings.Join(d.Slots, ", "))
		if d.Verified {
			line("Generation", "%d", *d.Generation)
			text("Written by", d.Writer)
			line("Manifest", "authentic")
		} else {
			line("Manifest", "not checked: that takes a key of the snapshot")
		}
	}
	for _, l := range s.Leases {
		line("In use", "%s by %s, until %s at the latest without news of it", l.Use, printable(l.Who), l.Expires.Local().Format(time.RFC3339))
	}
	text("Error", s.Error)
}
