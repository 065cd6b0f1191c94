package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// snapJobs are the lines of the table.
var snapJobs = []struct{ row, title string }{
	{"random first", "first snapshot, 1 GiB of random bytes"},
	{"random second", "— 655 blocks of 4 KiB changed"},
	{"random verify", "— verify the first"},
	{"random restore", "— restore the first"},
	{"source first", "first snapshot, Go's source tree"},
	{"source second", "— nothing changed"},
	{"source verify", "— verify"},
	{"source restore", "— restore"},
	{"small first", "first snapshot, 100,000 small files"},
	{"small second", "— nothing changed"},
	{"small verify", "— verify"},
	{"small restore", "— restore"},
}

// snapValues are the tables.
var snapValues = []struct{ unit, title string }{
	{"s", "Seconds"}, {"CPU s", "Seconds of CPU time"}, {"stored MiB", "MiB stored"}, {"read MiB", "MiB read from the disk"}, {"RSS MiB", "Peak resident MiB"},
}

// table returns the report as Markdown.
func (b *snapBench) table() string {
	w := &strings.Builder{}
	fmt.Fprintf(w, "\nMedian (worst) of %d rounds. A factor is the other's value divided by ours in the same round: median (minimum).\n", b.reps)
	fmt.Fprintln(w, "sealvol reads an unmounted volume in an image file. restic and borg read the same tree from the file system of that image. All")
	fmt.Fprintln(w, "store to directories there. sealvol restores to a new volume, the others to a directory, until everything is durable. sealvol")
	fmt.Fprintln(w, "verifies with --level data, restic with check --read-data, borg with check --verify-data. Caches are dropped before each.")
	for _, v := range snapValues {
		fmt.Fprintf(w, "\n| %s | ours | restic | borg | restic/ours | borg/ours |\n|---|---:|---:|---:|---:|---:|\n", v.title)
		for _, j := range snapJobs {
			r := b.results[j.row+"/"+v.unit]
			if r == nil {
				continue
			}
			cells := []string{j.title}
			for _, t := range b.tools {
				cells = append(cells, show(r[t.name()], false, number))
			}
			for _, t := range b.tools[1:] {
				cells = append(cells, show(factors(r["ours"], r[t.name()]), true, number))
			}
			fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
		}
	}
	fmt.Fprint(w, "\n| our requests in the last round | get | put | list | stat | delete | downloaded MiB | uploaded MiB |\n|---|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, j := range snapJobs {
		if q := b.requests[j.row]; q != nil {
			fmt.Fprintf(w, "| %s | %d | %d | %d | %d | %d | %.1f | %.1f |\n", j.title, q["get"], q["put"], q["list"], q["stat"], q["delete"],
				float64(q["downloadedBytes"])/(1<<20), float64(q["uploadedBytes"])/(1<<20))
		}
	}
	b.loadTable(w)
	return w.String()
}

// loadTable shows the writer beside a snapshot.
func (b *snapBench) loadTable(w *strings.Builder) {
	if len(b.load) == 0 {
		return
	}
	fmt.Fprint(w, "\n| write 4 KiB and fsync, one thread, mounted volume | per second | p50, ms | p99, ms |\n|---|---:|---:|---:|\n")
	line := func(title string, of func(r *loadRound) writes) {
		var rate, p50, p99 []float64
		for i := range b.load {
			x := of(&b.load[i])
			rate, p50, p99 = append(rate, x.PerSecond), append(p50, x.P50), append(p99, x.P99)
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", title, show(rate, true, number), show(p50, false, number), show(p99, false, number))
	}
	line("alone", func(r *loadRound) writes { return r.Alone })
	line("beside a first snapshot of 1 GiB to the same disk", func(r *loadRound) writes { return r.SameDisk.writes })
	line("beside one to memory", func(r *loadRound) writes { return r.Elsewhere.writes })
	loss := func(of func(r *loadRound) *beside) string {
		var all []float64
		for i := range b.load {
			all = append(all, b.load[i].loss(of(&b.load[i])))
		}
		return show(all, false, number)
	}
	fmt.Fprintf(w, "\nThe writer loses %s %% of its throughput, %s %% with the store in memory.\n", loss(func(r *loadRound) *beside { return &r.SameDisk }),
		loss(func(r *loadRound) *beside { return &r.Elsewhere }))
}

// factors returns theirs divided by ours, round by round.
func factors(ours, theirs []float64) (out []float64) {
	for i := range min(len(ours), len(theirs)) {
		if ours[i] > 0 {
			out = append(out, theirs[i]/ours[i])
		}
	}
	return out
}

// writeJSON writes all values of all rounds.
func (b *snapBench) writeJSON() error {
	if b.json == "" {
		return nil
	}
	type value struct {
		Job   string               `json:"job"`
		Unit  string               `json:"unit"`
		Round map[string][]float64 `json:"rounds"`
	}
	var values []value
	for _, k := range slices.Sorted(maps.Keys(b.results)) {
		job, unit, _ := strings.Cut(k, "/")
		values = append(values, value{job, unit, b.results[k]})
	}
	out, err := json.MarshalIndent(map[string]any{"values": values, "requests": b.requests, "load": b.load}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(b.json, append(out, '\n'), 0o644)
}
