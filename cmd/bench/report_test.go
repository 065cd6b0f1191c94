package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	r := results{}
	for rep, v := range []float64{100, 300, 200} {
		r.add("ours", rep, map[string]float64{"seqwrite": v, "besideworst": v})
		r.add("gocryptfs", rep, map[string]float64{"seqwrite": 200, "besideworst": 100})
	}
	r.add("ext4", 1, map[string]float64{"seqwrite": 1}) // its first repetition failed
	b := &bench{config: &config{reps: 3}, results: r}
	b.note("pgbench: left out")
	b.note("pgbench: left out")
	got := b.report()
	for _, want := range []string{
		"| sequential write 1 MiB, fsync at end | MiB/s | 200 (100) | 200 (200) |  |  | 1.00 (0.50) |  |  | 1.0 G |\n",
		"| ms | 200 (300) | 100 (100) |  |  | 2.00 (1.00) |",
		"First targets met: 1 of 1.\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	if strings.Count(got, "left out") != 1 {
		t.Errorf("a note twice:\n%s", got)
	}
	r["seqwrite"]["gocryptfs"][2] = 1000
	if got := b.report(); !strings.Contains(got, "**missed**") || !strings.Contains(got, "Missed: sequential write") {
		t.Errorf("the missed target is not reported:\n%s", got)
	}
}

func TestRowsHaveJobs(t *testing.T) {
	names := map[string]bool{}
	for _, j := range jobs {
		if names[j.name] {
			t.Errorf("two jobs are named %s", j.name)
		}
		names[j.name] = true
	}
	keys := map[string]bool{}
	for _, r := range rows {
		if keys[r.key] {
			t.Errorf("two rows have the key %s", r.key)
		}
		keys[r.key] = true
	}
}
