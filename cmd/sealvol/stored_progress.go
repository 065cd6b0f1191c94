package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/snapshot/restore"
	"github.com/sealvol/sealvol/pkg/snapshot/verify"
)

// events tells how far a command of stored snapshots is: as one JSON object per line on standard
// output, or as one line on a terminal.
type events struct {
	json bool
	w    io.Writer
	last time.Time // of an event
	line *statusLine
	rate rate
}

// eventEvery is the time between two events of progress.
const eventEvery = time.Second

func newEvents(w io.Writer, what string, asJSON bool) *events {
	e := &events{json: asJSON, w: w, rate: rate{begin: time.Now()}}
	if !asJSON {
		e.line = newStatusLine(what)
	}
	return e
}

// end removes the line from the terminal.
func (e *events) end() {
	e.line.end()
	e.line = nil
}

type startedEvent struct {
	Event   string `json:"event"`
	ID      string `json:"id"`
	Local   string `json:"local,omitempty"`
	Resumed bool   `json:"resumed"`
}

func (e *events) begin(x *startedEvent) {
	if e.json {
		_ = writeLine(e.w, x) // the report fails for the same reason
	}
}

// progressEvent is the JSON of progress. Totals are 0 while they are not known.
type progressEvent struct {
	Event      string `json:"event"`
	Step       string `json:"step"`
	Files      uint64 `json:"files"`
	FilesTotal uint64 `json:"filesTotal"`
	Bytes      uint64 `json:"bytes"`
	BytesTotal uint64 `json:"bytesTotal"`
	Stored     uint64 `json:"storedBytes,omitempty"`
	Reused     uint64 `json:"reusedBytes,omitempty"`
	Problems   uint64 `json:"problems,omitempty"`
	Rate       uint64 `json:"bytesPerSecond"`
	Left       int64  `json:"secondsLeft,omitempty"`

	moved uint64 // bytes that the rate is about; 0: Bytes
}

// progress tells how far the command is. Calls do not overlap.
func (e *events) progress(p *progressEvent) {
	p.Event = "progress"
	p.Rate = e.rate.at(time.Now(), cmp.Or(p.moved, p.Bytes))
	left := e.rate.left(p.Bytes, p.BytesTotal)
	p.Left = int64(left.Seconds())
	if e.json && time.Since(e.last) >= eventEvery {
		e.last = time.Now()
		_ = writeLine(e.w, p)
	}
	e.line.set(p.text(left))
}

func (p *progressEvent) text(left time.Duration) string {
	of := func(n, total uint64) string {
		if total == 0 {
			return formatSize(int64(n))
		}
		return fmt.Sprintf("%s of %s", formatSize(int64(n)), formatSize(int64(total)))
	}
	parts := []string{p.Step + " " + of(p.Bytes, p.BytesTotal)}
	if p.FilesTotal > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d files", p.Files, p.FilesTotal))
	} else if p.Files > 0 {
		parts = append(parts, fmt.Sprintf("%d files", p.Files))
	}
	if p.Stored > 0 {
		parts = append(parts, formatSize(int64(p.Stored))+" stored")
	}
	if p.Problems > 0 {
		parts = append(parts, fmt.Sprintf("%d problems", p.Problems))
	}
	if p.Rate > 0 {
		parts = append(parts, formatSize(int64(p.Rate))+"/s")
	}
	if left > 0 {
		parts = append(parts, left.Round(time.Second).String()+" left")
	}
	return strings.Join(parts, ", ")
}

// created is create.Options.Progress.
func (e *events) created(p create.Progress) {
	step, moved := "read", p.Read
	if p.Committing { // what was read is being uploaded
		step, moved = "finishing, read", p.Stored
	}
	e.progress(&progressEvent{Step: step, moved: moved, Files: p.Files, FilesTotal: p.FilesTotal, Bytes: p.Read, BytesTotal: p.ReadTotal,
		Stored: p.Stored, Reused: p.Kept})
}

// restored is restore.Options.Progress.
func (e *events) restored(p restore.Progress) {
	e.progress(&progressEvent{Step: "restored", Files: p.Inodes, FilesTotal: p.InodesTotal, Bytes: p.Bytes, BytesTotal: p.BytesTotal})
}

// verified is verify.Options.Progress.
func (e *events) verified(total uint64) func(verify.Report) {
	return func(p verify.Report) {
		e.progress(&progressEvent{Step: "verified", Files: p.Inodes, Bytes: p.Bytes, BytesTotal: total, Problems: p.Problems})
	}
}

// rate is how fast bytes pass, over the last seconds.
type rate struct {
	begin   time.Time
	samples [16]struct {
		at time.Time
		n  uint64
	}
	count int
}

// at takes a sample and returns bytes per second.
func (r *rate) at(now time.Time, n uint64) uint64 {
	if r.count > 0 && n < r.samples[(r.count-1)%len(r.samples)].n { // another step
		*r = rate{begin: now}
	}
	oldest := r.samples[0]
	if r.count >= len(r.samples) {
		oldest = r.samples[r.count%len(r.samples)]
	}
	if r.count == 0 {
		oldest.at, oldest.n = r.begin, 0
	}
	s := &r.samples[r.count%len(r.samples)]
	s.at, s.n = now, n
	r.count++
	d := now.Sub(oldest.at)
	if d <= 0 || n < oldest.n {
		return 0
	}
	return uint64(float64(n-oldest.n) / d.Seconds())
}

// left estimates the remaining time; 0: unknown.
func (r *rate) left(n, total uint64) time.Duration {
	d := time.Since(r.begin)
	if n == 0 || total <= n || d < eventEvery {
		return 0
	}
	return time.Duration(float64(d) / float64(n) * float64(total-n))
}

// statusLine is a line on a terminal. If standard error is no terminal it is nil, and its methods do
// nothing.
type statusLine struct {
	p    *mpb.Progress
	bar  *mpb.Bar
	text atomic.Pointer[string]
}

func newStatusLine(what string) *statusLine {
	if !term.IsTerminal(int(os.Stderr.Fd())) {
		return nil
	}
	l := &statusLine{p: mpb.New(mpb.WithOutput(os.Stderr), mpb.WithRefreshRate(progressRefresh))}
	l.bar = l.p.New(0, mpb.NopStyle(), mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(what+": "), decor.Any(func(decor.Statistics) string {
			if s := l.text.Load(); s != nil {
				return *s
			}
			return "preparing"
		})))
	return l
}

const progressRefresh = 250 * time.Millisecond

func (l *statusLine) set(s string) {
	if l != nil {
		l.text.Store(&s)
	}
}

func (l *statusLine) end() {
	if l != nil {
		l.bar.Abort(true)
		l.p.Wait()
	}
}
