package pkg

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// adrGaps allows gaps between the numbers of decisions, so that those who work side by side can
// agree on numbers. tools/renumber-adr closes the gaps and sets it to false.
const adrGaps = false

const adrIndex = "../docs/adr/README.md"

var adrUpdate = flag.Bool("adr.update", false, "write "+adrIndex+" anew")

const adrIndexHead = `# Decisions

<!-- make generate writes this file from the first lines of the decisions. -->

Each file records one decision: what forced it, what was decided, what follows from it, and what was
rejected. [CONTRIBUTING.md](../../CONTRIBUTING.md#add-a-decision) explains how to add one.

`

// TestADR reads the head of every decision: title and status are in their places, each number
// is given once, and docs/adr/README.md lists all of them.
func TestADR(t *testing.T) {
	files, err := filepath.Glob("../docs/adr/[0-9]*.md")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d decisions found: %v", len(files), err)
	}
	title := regexp.MustCompile(`^# (\d{4}): (.+)$`)
	status := regexp.MustCompile(`^Date: (\d{4}-\d{2}-\d{2})\. Status: (.+)\.$`)
	index, last := strings.Builder{}, 0
	index.WriteString(adrIndexHead)
	for _, file := range files {
		name := filepath.Base(file)
		if strings.HasPrefix(name, "0000-") { // the template
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.SplitN(string(b), "\n", 4)
		if len(lines) < 4 {
			t.Fatalf("%s has %d lines", name, len(lines))
		}
		head, state := title.FindStringSubmatch(lines[0]), status.FindStringSubmatch(lines[2])
		switch {
		case head == nil || head[1] != name[:4]:
			t.Errorf("%s begins with %q: write \"# %s: Title\"", name, lines[0], name[:4])
			continue
		case state == nil:
			t.Errorf("%s: the third line is %q: write \"Date: YYYY-MM-DD. Status: accepted.\"", name, lines[2])
			continue
		}
		n, err := strconv.Atoi(head[1])
		switch {
		case err != nil:
			t.Fatal(err)
		case n == last:
			t.Errorf("two decisions have the number %04d: give one of them the next free number", n)
		case n != last+1 && !adrGaps:
			t.Errorf("%04d follows on %04d: numbers have no gaps; tools/renumber-adr --write", n, last)
		}
		last = n
		entry := head[2]
		if state[2] != "accepted" {
			entry += fmt.Sprintf(" (%s)", strings.TrimPrefix(state[2], "accepted, "))
		}
		fmt.Fprintf(&index, "- [%s](%s)\n  %s\n", head[1], name, entry)
	}
	if *adrUpdate {
		if err := os.WriteFile(adrIndex, []byte(index.String()), 0o644); err != nil { //nolint:gosec // a document
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(adrIndex); err != nil || string(b) != index.String() {
		t.Errorf("%s is not up to date: make generate (%v)", adrIndex, err)
	}
}
