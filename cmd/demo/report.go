package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// timeline prints a line when a step begins, and one when it ends. On a terminal, it shows a
// progress bar meanwhile.
type timeline struct {
	start time.Time
	bars  *mpb.Progress // nil for plain lines

	broken func(error) // called if printing fails

	mu    sync.Mutex
	out   io.Writer // guarded by mu
	steps []*step   // completed steps, guarded by mu
}

func newTimeline(out io.Writer, broken func(error), terminal bool) *timeline {
	t := &timeline{start: time.Now(), out: out, broken: broken}
	if terminal {
		t.bars = mpb.New(mpb.WithOutput(out), mpb.WithWidth(40), mpb.WithAutoRefresh())
		t.out = t.bars // the writer for lines above the bars
	}
	return t
}

// printf prints a line with the time since the start.
func (t *timeline) printf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	line := fmt.Sprintf("%6.1fs  %s\n", time.Since(t.start).Seconds(), fmt.Sprintf(format, args...))
	if _, err := io.WriteString(t.out, line); err != nil {
		t.broken(err)
	}
}

// close removes the bars.
func (t *timeline) close() {
	if t.bars != nil {
		t.bars.Shutdown()
	}
}

// step is one line of the timeline and of the summary.
type step struct {
	t     *timeline
	name  string
	begin time.Time
	took  time.Duration
	bar   *mpb.Bar

	sizeBytes int64 // bytes processed; 0 if it is not meaningful
	files     int
	result    string
}

// begin starts a step. what is its description. totalBytes is the total of its bar, or 0 if it is
// unknown.
func (t *timeline) begin(name, what string, totalBytes int64) *step {
	t.printf("%-8s %s ...", name, what)
	s := &step{t: t, name: name, begin: time.Now()}
	if t.bars == nil {
		return s
	}
	label := []mpb.BarOption{mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.Name("         " + name + " ")), mpb.AppendDecorators(decor.Elapsed(decor.ET_STYLE_GO))}
	if totalBytes > 0 {
		s.bar = t.bars.AddBar(totalBytes, append(label, mpb.AppendDecorators(decor.CountersKibiByte(" % .0f of % .0f"), decor.Percentage(decor.WC{W: 7})))...)
	} else {
		s.bar = t.bars.AddSpinner(0, label...)
	}
	return s
}

// add advances the bar. It is safe for concurrent use.
func (s *step) add(n int64) {
	if s.bar != nil {
		s.bar.IncrInt64(n)
	}
}

// end ends the step. If the step failed, it prints nothing.
func (s *step) end(err error) {
	s.took = time.Since(s.begin)
	if s.bar != nil {
		s.bar.Abort(true)
		s.bar.Wait()
	}
	if err != nil {
		return
	}
	s.t.printf("%-8s %s%s", s.name, s.result, s.rates())
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	s.t.steps = append(s.t.steps, s)
}

func (s *step) rates() string {
	r := fmt.Sprintf(" (%.2f s", s.took.Seconds())
	if s.sizeBytes > 0 {
		r += ", " + s.throughput()
	}
	return r + ")"
}

func (s *step) throughput() string {
	if s.sizeBytes == 0 || s.took <= 0 {
		return "-"
	}
	return sizeText(int64(float64(s.sizeBytes)/s.took.Seconds())) + "/s"
}

// summary prints a table of all steps.
func (t *timeline) summary() {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	printTo(w, "step\tseconds\tfiles\tsize\tthroughput\t\n")
	for _, s := range t.steps {
		files, size := "-", "-"
		if s.files > 0 {
			files = fmt.Sprint(s.files)
		}
		if s.sizeBytes > 0 {
			size = sizeText(s.sizeBytes)
		}
		printTo(w, "%s\t%.2f\t%s\t%s\t%s\t\n", s.name, s.took.Seconds(), files, size, s.throughput())
	}
	printTo(w, "total\t%.2f\t\t\t\t\n", time.Since(t.start).Seconds())
	w.Flush() //nolint:errcheck // a strings.Builder never fails
	if _, err := io.WriteString(t.out, "\n"+b.String()+"\n"); err != nil {
		t.broken(err)
	}
}

// printTo prints to stderr or memory, where errors can be ignored.
func printTo(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }

// sizeText formats a number of bytes for people.
func sizeText(n int64) string {
	f, unit := float64(n), "B"
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if f < 1024 {
			break
		}
		f, unit = f/1024, u
	}
	if unit == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}
