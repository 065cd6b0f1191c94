package main

import (
	"fmt"
	"slices"
	"strings"
)

// row is a line of the table.
type row struct {
	key, title, unit string
	first            []target
	lower            bool // lower is better
}

// target is a limit of our result relative to another one.
type target struct {
	system string
	ratio  float64
}

func g(r float64) []target { return []target{{"gocryptfs", r}} }

// rows are the rows and their first targets.
var rows = []row{
	{key: "seqwrite", title: "sequential write 1 MiB, fsync at end", unit: "MiB/s", first: g(1)},
	{key: "seqread", title: "sequential read, cold", unit: "MiB/s", first: g(0.8)},
	{key: "seqreadwarm", title: "sequential read, warm", unit: "MiB/s", first: g(3)},
	{key: "randread", title: "random read 4 KiB, cold", unit: "/s", first: g(0.8)},
	{key: "randread4", title: "the same, 4 threads", unit: "/s", first: g(0.8)},
	{key: "randwrite4k", title: "random write 4 KiB, buffered, fsync at end", unit: "/s", first: g(3)},
	{key: "randwrite64k", title: "random write 64 KiB, fsync at end", unit: "/s", first: g(1.5)},
	{key: "fsync", title: "random write 4 KiB, fsync each", unit: "/s", first: g(2)},
	{key: "fsync4", title: "the same, 4 threads, one file", unit: "/s", first: g(2)},
	{key: "fsyncfiles", title: "the same, 4 threads, a file each", unit: "/s"},
	{key: "fsyncbeside", title: "random write 4 KiB, fsync each, beside a stream of 1 MiB writes", unit: "/s", first: g(0.5)},
	{key: "besideworst", title: "— its worst fsync", unit: "ms", lower: true},
	{key: "besidestream", title: "— the stream", unit: "MiB/s"},
	{key: "create", title: "create 4 KiB files, sync at end", unit: "/s", first: g(1.5)},
	{key: "createsync", title: "create + fsync each", unit: "/s", first: g(2)},
	{key: "statcold", title: "stat, cold", unit: "/s", first: g(1)},
	{key: "statwarm", title: "stat, warm", unit: "/s", first: g(1)},
	{key: "readfiles", title: "read small files, cold", unit: "/s", first: g(1)},
	{key: "delete", title: "delete", unit: "/s", first: g(1)},
	{key: "untar", title: "untar a source tree", unit: "files/s", first: g(1.2)},
	{key: "readtree", title: "read that tree, cold", unit: "files/s", first: g(1.2)},
	{key: "rmtree", title: "rm -rf it", unit: "files/s", first: g(1)},
	{key: "sqlite", title: "SQLite autocommit", unit: "tx/s", first: g(1.5)},
	{key: "sqlitewal", title: "SQLite WAL", unit: "tx/s", first: g(1)},
	{key: "sqlitebulk", title: "SQLite, one big transaction", unit: "rows/s", first: g(1)},
	{key: "pgbench", title: "PostgreSQL pgbench -c 4", unit: "tx/s", first: g(1.5)},
}

// results contains values by row, file system and repetition.
type results map[string]map[string][]float64

func (r results) add(system string, rep int, values map[string]float64) {
	for key, v := range values {
		if r[key] == nil {
			r[key] = map[string][]float64{}
		}
		if len(r[key][system]) != rep {
			continue // earlier repetitions did not run the row
		}
		r[key][system] = append(r[key][system], v)
	}
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// ratios returns the ratios of our value to another one in the same repetition.
func (r results) ratios(key, other string) []float64 {
	a, b := r[key]["ours"], r[key][other]
	var out []float64
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			out = append(out, a[i]/b[i])
		}
	}
	return out
}

// report returns the table as Markdown.
func (b *bench) report() string {
	w := &strings.Builder{}
	fmt.Fprintf(w, "\nMedian (worst) of %d repetitions. A ratio is ours divided by the other's value in the same repetition: median (minimum).\n", b.reps)
	fmt.Fprintln(w, "G: gocryptfs, E: ext4, C: our FUSE server over a file system in memory.")
	fmt.Fprint(w, "\n| job | unit | ours | G | E | C | ours/G | ours/E | ours/C | first |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---|\n")
	met, missed := 0, []string{}
	for i := range rows {
		row := &rows[i]
		if b.results[row.key] == nil {
			continue
		}
		cells := []string{row.title, row.unit}
		for _, s := range []string{"ours", "gocryptfs", "ext4", "ram"} {
			cells = append(cells, b.value(row, s))
		}
		for _, s := range []string{"gocryptfs", "ext4", "ram"} {
			cells = append(cells, show(b.results.ratios(row.key, s), true, ratio))
		}
		verdict, ok, known := b.verdict(row)
		if known && ok {
			met++
		} else if known {
			missed = append(missed, row.title)
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(append(cells, verdict), " | "))
	}
	fmt.Fprintf(w, "\nFirst targets met: %d of %d.", met, met+len(missed))
	if len(missed) > 0 {
		fmt.Fprintf(w, " Missed: %s.", strings.Join(missed, "; "))
	}
	fmt.Fprintln(w)
	for _, n := range b.notes {
		fmt.Fprintln(w, n+".")
	}
	return w.String()
}

func (b *bench) value(r *row, system string) string {
	return show(b.results[r.key][system], !r.lower, number)
}

// show formats the median and the worst value.
func show(v []float64, low bool, format func(float64) string) string {
	if len(v) == 0 {
		return ""
	}
	worst := slices.Max(v)
	if low {
		worst = slices.Min(v)
	}
	if len(v) == 1 {
		return format(v[0])
	}
	return fmt.Sprintf("%s (%s)", format(median(v)), format(worst))
}

func ratio(v float64) string { return fmt.Sprintf("%.2f", v) }

// verdict compares the medians with the targets of the row.
func (b *bench) verdict(r *row) (text string, ok, known bool) {
	ok = true
	var out []string
	for _, t := range r.first {
		s := fmt.Sprintf("%.1f %s", t.ratio, strings.ToUpper(t.system[:1]))
		if v := b.results.ratios(r.key, t.system); len(v) > 0 {
			known = true
			if median(v) < t.ratio {
				s, ok = s+" **missed**", false
			}
		}
		out = append(out, s)
	}
	return strings.Join(out, ", "), ok, known
}

// number formats a value with three digits.
func number(v float64) string {
	switch {
	case v >= 100_000:
		return fmt.Sprintf("%.0fk", v/1000)
	case v >= 10_000:
		return fmt.Sprintf("%.1fk", v/1000)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}
