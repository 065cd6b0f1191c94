package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var updateDocs = flag.Bool("update-docs", false, "write what the commands of documents print into them")

// documentStep is a command of a document, and what it prints.
type documentStep struct{ command, prints string }

// documentSteps finds the commands in code blocks of type console. A line that ends with a backslash
// continues on the next one.
func documentSteps(text string) (steps []documentStep) {
	inside := false
	for line := range strings.Lines(text) {
		command, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case strings.HasPrefix(line, "```"):
			inside = strings.TrimSpace(line) == "```console"
		case inside && len(steps) > 0 && strings.HasSuffix(steps[len(steps)-1].command, "\\"):
			steps[len(steps)-1].command += "\n" + strings.TrimRight(line, "\n")
		case inside && isCommand:
			steps = append(steps, documentStep{command: strings.TrimSpace(command)})
		case inside && len(steps) > 0:
			steps[len(steps)-1].prints += line
		}
	}
	return steps
}

var differs = regexp.MustCompile(`\S*[0-9]\S*`)

// comparable replaces in an output what differs each time.
func comparable(s string) (all []string) {
	for line := range strings.Lines(s) {
		all = append(all, strings.Join(strings.Fields(differs.ReplaceAllString(line, "#")), " "))
	}
	slices.Sort(all) // the order of some lists depends on identities
	return all
}

// TestSnapshotsDocument runs the commands of docs/snapshots.md, in one shell, and compares what they
// print, except for names, numbers and times.
func TestSnapshotsDocument(t *testing.T) {
	const doc = "../../docs/snapshots.md"
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	work, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"data", "backup"} {
		if err := os.Mkdir(filepath.Join(work, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	timer := time.AfterFunc(2*scriptDeadline, func() { abortAll(work) })
	t.Cleanup(func() {
		timer.Stop()
		abortAll(work)
		unmountAll(t, work)
	})
	steps := documentSteps(string(text))
	if len(steps) < 25 {
		t.Fatalf("%s has %d commands", doc, len(steps))
	}
	out, rest := strings.Builder{}, string(text)
	for _, s := range steps {
		got, err := runStep(t, work, s.command)
		if err != nil {
			t.Fatalf("$ %s\n%s%v", s.command, got, err)
		}
		if !*updateDocs && !slices.Equal(comparable(s.prints), comparable(got)) {
			t.Fatalf("$ %s\nprints\n%s\n%s says\n%s", s.command, got, doc, s.prints)
		}
		before, after, _ := strings.Cut(rest, "$ "+s.command+"\n"+s.prints)
		fmt.Fprintf(&out, "%s$ %s\n%s", before, s.command, got)
		rest = after
	}
	if *updateDocs {
		if err := os.WriteFile(doc, []byte(out.String()+rest), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// runStep runs a command. Variables that it exports are kept for the next ones.
func runStep(t *testing.T, work, command string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), scriptDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", "set -o pipefail; . ./.exported 2>/dev/null; "+command+"\ncode=$?; export -p >.exported; exit $code")
	cmd.Dir = work
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	b, err := cmd.CombinedOutput()
	return strings.ReplaceAll(string(b), work, "/srv"), err
}
