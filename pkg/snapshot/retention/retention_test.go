package retention

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func at(s string) time.Time {
	t, err := time.Parse("2006-01-02 15:04", s)
	if err != nil {
		panic(err)
	}
	return t
}

// series is n whole snapshots, each so long before the next; the last is at end.
func series(n int, step time.Duration, end string) (list []Snapshot) {
	for i := range n {
		t := at(end).Add(-step * time.Duration(n-1-i))
		list = append(list, Snapshot{ID: fmt.Sprintf("%03d", i), Group: "db", Created: t, Whole: true})
	}
	return list
}

func kept(t *testing.T, p *Policy, all []Snapshot) (ids []string, reasons map[string]string) {
	t.Helper()
	list, err := Apply(p, all)
	if err != nil {
		t.Fatal(err)
	}
	reasons = map[string]string{}
	for _, d := range list {
		if len(d.Reasons) == 0 {
			t.Errorf("%s: no reason", d.ID)
		}
		reasons[d.ID] = strings.Join(d.Reasons, "; ")
		if d.Keep {
			ids = append(ids, d.ID)
		}
	}
	return ids, reasons
}

func TestPolicy(t *testing.T) {
	hourly := series(100, time.Hour, "2026-11-30 03:30") // 096 is at 00:30, 097 at 01:30
	for _, c := range []struct {
		name   string
		policy Policy
		all    []Snapshot
		want   string
	}{
		{"nothing", Policy{}, hourly[:3], "002 001 000"},
		{"last", Policy{Last: 2}, hourly, "099 098"},
		{"more than there are", Policy{Last: 200}, hourly[:3], "002 001 000"},
		{"daily", Policy{Daily: 3}, hourly, "099 095 071"},
		{"hourly and daily", Policy{Hourly: 3, Daily: 2}, hourly, "099 098 097 095"},
		{"weeks begin on Monday", Policy{Weekly: 2}, hourly, "099 095"},
		{"monthly", Policy{Monthly: 3}, series(5, 31*24*time.Hour, "2026-12-05 00:00"), "004 003 002"},
		{"yearly", Policy{Yearly: 9}, series(3, 200*24*time.Hour, "2026-12-05 00:00"), "002 000"},
		{"within", Policy{Within: 3 * time.Hour}, hourly, "099 098 097"},
		{"only tags", Policy{Tags: []string{"keep=yes", "release"}}, []Snapshot{
			{ID: "a", Created: at("2026-01-01 00:00"), Whole: true, Tags: map[string]string{"keep": "yes"}},
			{ID: "b", Created: at("2026-01-02 00:00"), Whole: true, Tags: map[string]string{"keep": "no"}},
			{ID: "c", Created: at("2026-01-03 00:00"), Whole: true, Tags: map[string]string{"release": "1"}},
			{ID: "d", Created: at("2026-01-04 00:00"), Whole: true},
			{ID: "e", Created: at("2026-01-05 00:00"), Whole: true},
		}, "e c a"},
		{"unfinished ones do not count", Policy{Last: 1}, []Snapshot{
			{ID: "a", Created: at("2026-01-01 00:00"), Whole: true}, {ID: "b", Created: at("2026-01-02 00:00")}, {ID: "c", Created: at("2026-01-03 00:00")},
		}, "c b a"},
		{"groups are alone", Policy{Last: 1}, []Snapshot{
			{ID: "a", Group: "x", Created: at("2026-01-01 00:00"), Whole: true}, {ID: "b", Group: "y", Created: at("2026-01-02 00:00"), Whole: true},
			{ID: "c", Group: "x", Created: at("2026-01-03 00:00"), Whole: true},
		}, "c b"},
		{"held", Policy{Last: 1}, []Snapshot{
			{ID: "a", Created: at("2026-01-01 00:00"), Whole: true, Held: "restore of db-2"}, {ID: "b", Created: at("2026-01-02 00:00"), Whole: true},
		}, "b a"},
		{"days of a zone", Policy{Daily: 2, Zone: time.FixedZone("", 5*3600)}, hourly, "099 090"}, // 18:30 UTC is 23:30 there
	} {
		if got, why := kept(t, &c.policy, c.all); strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %s\n%v", c.name, got, c.want, why)
		}
	}
	_, why := kept(t, &Policy{Last: 1, Daily: 2}, hourly)
	if why["099"] != "last 1 of 1; daily 1 of 2 (2026-11-30)" || why["095"] != "daily 2 of 2 (2026-11-29)" || why["098"] != "no rule keeps it" {
		t.Errorf("%q, %q, %q", why["099"], why["095"], why["098"])
	}
	for _, p := range []Policy{{Last: -1}, {Within: -1}, {Tags: []string{""}}, {Tags: []string{"=x"}}} {
		if _, err := Apply(&p, nil); !errors.Is(err, ErrPolicy) {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

// TestNewestStays: whatever the policy, the newest whole snapshot of each group
// stays, and what stays still stays when the policy is applied again.
func TestNewestStays(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var all []Snapshot
		for i := range rng.IntN(60) {
			all = append(all, Snapshot{ID: fmt.Sprint(i), Group: fmt.Sprint(rng.IntN(3)), Whole: rng.IntN(5) > 0,
				Created: at("2026-01-01 00:00").Add(time.Duration(rng.IntN(3_000)) * time.Hour)})
		}
		p := Policy{Last: rng.IntN(3), Hourly: rng.IntN(3), Daily: rng.IntN(3), Weekly: rng.IntN(3), Monthly: rng.IntN(3), Yearly: rng.IntN(3)}
		first, err := Apply(&p, all)
		if err != nil {
			t.Fatal(err)
		}
		newest := map[string]bool{}
		var rest []Snapshot
		for _, d := range first {
			if d.Whole && !newest[d.Group] {
				if newest[d.Group] = true; !d.Keep {
					t.Fatalf("%+v: the newest goes: %+v", p, d)
				}
			}
			if !d.Whole && !d.Keep {
				t.Fatalf("%+v goes", d)
			}
			if d.Keep {
				rest = append(rest, d.Snapshot)
			}
		}
		again, err := Apply(&p, rest)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range again {
			if !d.Keep {
				t.Fatalf("%+v: %s stays at first, goes when asked again: %q", p, d.ID, d.Reasons)
			}
		}
	}
}

func TestFilter(t *testing.T) {
	s := Snapshot{Group: "shop/db", Created: at("2026-01-02 00:00"), Tags: map[string]string{"a": "1", "b": "2"}}
	for _, c := range []struct {
		f    Filter
		want bool
	}{
		{Filter{}, true},
		{Filter{Groups: []string{"x", "shop/db"}}, true},
		{Filter{Groups: []string{"x"}}, false},
		{Filter{Tags: []string{"a", "b=2"}}, true},
		{Filter{Tags: []string{"a", "b=3"}}, false},
		{Filter{After: s.Created, Before: s.Created.Add(1)}, true},
		{Filter{After: s.Created.Add(1)}, false},
		{Filter{Before: s.Created}, false},
	} {
		if got := c.f.Match(&s); got != c.want {
			t.Errorf("%+v: %v", c.f, got)
		}
	}
}
