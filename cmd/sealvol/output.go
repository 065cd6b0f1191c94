package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/sealvol/sealvol/pkg/volume/vfs/walk"
)

// say prints text for people. It ignores errors, since no script depends on this text.
func say(w io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(w, format, args...)
}

// counted returns a number of things.
func counted[N int | uint32 | uint64](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	if stem, ok := strings.CutSuffix(thing, "y"); ok {
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// countedEntries returns a number of files and directories.
func countedEntries[N int | uint32 | uint64](n N) string {
	if n == 1 {
		return "1 file or directory"
	}
	return fmt.Sprintf("%d files and directories", n)
}

// discard closes something that was only read.
func discard(c io.Closer) { _ = c.Close() }

// writeJSON writes a report as indented JSON.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// writeLine writes one JSON object on its own line.
func writeLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// printable returns a name that is safe to print on a terminal.
func printable(name string) string { return walk.Printable(name) }

// progress is a progress bar on a terminal. If standard error is not a terminal, it is nil, and its
// methods do nothing.
type progress struct {
	p   *mpb.Progress
	bar *mpb.Bar
}

// newProgress shows a bar on standard error for work measured in bytes.
func newProgress(what string) *progress {
	if !term.IsTerminal(int(os.Stderr.Fd())) {
		return nil
	}
	p := mpb.New(mpb.WithOutput(os.Stderr), mpb.WithWidth(60))
	bar := p.New(0, mpb.BarStyle(),
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(what+" ")),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f"), decor.Name(" "), decor.AverageETA(decor.ET_STYLE_GO)))
	return &progress{p: p, bar: bar}
}

// set shows the bytes done and the total.
func (p *progress) set(done, total uint64) {
	if p == nil {
		return
	}
	p.bar.SetTotal(int64(max(total, done, 1)), false)
	p.bar.SetCurrent(int64(done))
}

// end removes the bar.
func (p *progress) end() {
	if p == nil {
		return
	}
	p.bar.Abort(true)
	p.p.Wait()
}
