package retention

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Snapshot is what the policy looks at.
type Snapshot struct {
	ID      string
	Group   string // a volume or a claim; each group is looked at alone
	Created time.Time
	// Whole is false for one that is being written, failed or was forgotten.
	Whole bool
	Tags  map[string]string
	// Held says who needs it, such as a restore that runs; "": nobody.
	Held string
}

// Policy says what stays. The zero value keeps everything.
type Policy struct {
	Last, Hourly, Daily, Weekly, Monthly, Yearly int
	// Within keeps all that are younger than the group's newest by this much.
	Within time.Duration
	// Tags keeps all that have one of them: "name" or "name=value".
	Tags []string
	// Zone is where days begin. Nil: UTC.
	Zone *time.Location
}

// ErrPolicy is about a policy that cannot be meant.
var ErrPolicy = errors.New("invalid retention")

// Validate checks the policy.
func (p *Policy) Validate() error {
	for _, r := range p.rules() {
		if r.keep < 0 {
			return fmt.Errorf("%w: keep-%s is %d, and must not be negative", ErrPolicy, r.name, r.keep)
		}
	}
	if p.Within < 0 {
		return fmt.Errorf("%w: within %v", ErrPolicy, p.Within)
	}
	for _, t := range p.Tags {
		if name, _, _ := strings.Cut(t, "="); name == "" {
			return fmt.Errorf("%w: tag %q: write name or name=value", ErrPolicy, t)
		}
	}
	return nil
}

// empty reports whether the policy has no rule at all.
func (p *Policy) empty() bool {
	for _, r := range p.rules() {
		if r.keep > 0 {
			return false
		}
	}
	return p.Within == 0 && len(p.Tags) == 0
}

// rule keeps the newest snapshot of each of the newest periods.
type rule struct {
	name   string
	keep   int
	period func(t time.Time) string
}

func (p *Policy) rules() []rule {
	return []rule{
		{"last", p.Last, nil},
		{"hourly", p.Hourly, func(t time.Time) string { return t.Format("2006-01-02 15:00 -0700") }}, // with the zone: an hour may come twice
		{"daily", p.Daily, func(t time.Time) string { return t.Format("2006-01-02") }},
		{"weekly", p.Weekly, func(t time.Time) string {
			y, w := t.ISOWeek()
			return fmt.Sprintf("%d week %d", y, w)
		}},
		{"monthly", p.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
		{"yearly", p.Yearly, func(t time.Time) string { return t.Format("2006") }},
	}
}

// Decision says what happens to a snapshot, and why.
type Decision struct {
	Snapshot
	Keep bool
	// Reasons are words for people: several if several rules keep it.
	Reasons []string
}

// Apply decides about all snapshots, in the order by group, newest first.
func Apply(p *Policy, all []Snapshot) ([]Decision, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b Snapshot) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	out := make([]Decision, len(sorted))
	for i := range sorted {
		out[i].Snapshot = sorted[i]
	}
	for len(sorted) > 0 {
		n := 1
		for n < len(sorted) && sorted[n].Group == sorted[0].Group {
			n++
		}
		p.group(out[len(out)-len(sorted):][:n])
		sorted = sorted[n:]
	}
	return out, nil
}

// group decides about one group, newest first.
func (p *Policy) group(list []Decision) {
	var whole []*Decision
	for i := range list {
		d := &list[i]
		if !d.Whole {
			d.keep("is not whole: neither counted nor forgotten")
			continue
		}
		whole = append(whole, d)
	}
	if p.empty() {
		for _, d := range whole {
			d.keep("no rule forgets anything")
		}
		return
	}
	for _, r := range p.rules() {
		r.apply(whole, p.Zone)
	}
	for i, d := range whole {
		if p.Within > 0 && whole[0].Created.Sub(d.Created) < p.Within {
			d.keep("within " + p.Within.String() + " of the newest")
		}
		for _, t := range p.Tags {
			if d.tagged(t) {
				d.keep("tag " + t)
			}
		}
		if d.Held != "" {
			d.keep("needed by " + d.Held)
		}
		if i == 0 && !d.Keep {
			d.keep("the newest that is whole")
		}
		if !d.Keep {
			d.Reasons = []string{"no rule keeps it"}
		}
	}
}

func (r *rule) apply(whole []*Decision, zone *time.Location) {
	if zone == nil {
		zone = time.UTC
	}
	last, n := "", 0
	for _, d := range whole {
		if n == r.keep {
			return
		}
		if r.period == nil {
			n++
			d.keep(fmt.Sprintf("%s %d of %d", r.name, n, r.keep))
			continue
		}
		if period := r.period(d.Created.In(zone)); period != last {
			last = period
			n++
			d.keep(fmt.Sprintf("%s %d of %d (%s)", r.name, n, r.keep, period))
		}
	}
}

func (d *Decision) keep(why string) {
	d.Keep = true
	d.Reasons = append(d.Reasons, why)
}

func (d *Decision) tagged(want string) bool {
	name, value, exact := strings.Cut(want, "=")
	got, ok := d.Tags[name]
	return ok && (!exact || got == value)
}

// Filter says which snapshots a command is about. The zero value is all.
type Filter struct {
	Groups []string // any of them
	Tags   []string // all of them: "name" or "name=value"
	// After and Before bound when they were created; zero: no bound.
	After, Before time.Time
}

// Match reports whether a snapshot passes.
func (f *Filter) Match(s *Snapshot) bool {
	if len(f.Groups) > 0 && !slices.Contains(f.Groups, s.Group) {
		return false
	}
	d := Decision{Snapshot: *s}
	for _, t := range f.Tags {
		if !d.tagged(t) {
			return false
		}
	}
	return (f.After.IsZero() || !s.Created.Before(f.After)) && (f.Before.IsZero() || s.Created.Before(f.Before))
}
