package matrixtest

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

var rewrite = flag.Bool("update", false, "write the list of attempts into docs/threat-model.md")

// The list of attempts is between these lines of the document.
const (
	listBegins = "<!-- attempts: written by make generate -->\n"
	listEnds   = "<!-- end of attempts -->"
)

// TestDocument compares the list of attempts in docs/threat-model.md.
func TestDocument(t *testing.T) {
	path := filepath.Join(operatortest.Root(), "docs", "threat-model.md")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(b), listBegins)
	_, after, ok2 := strings.Cut(rest, listEnds)
	if !ok || !ok2 {
		t.Fatal("docs/threat-model.md has no markers for the list of attempts")
	}
	want := before + listBegins + listOfAttempts() + listEnds + after
	switch {
	case want == string(b):
	case *rewrite:
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil { //nolint:gosec // a document
			t.Fatal(err)
		}
	default:
		t.Error("the list of attempts in docs/threat-model.md is out of date: run make generate")
	}
}

// listOfAttempts returns a table of attempts for each user.
func listOfAttempts() string {
	type row struct {
		attempt
		backends []string
	}
	var rows []*row
	var whos []string
	known := map[string]*row{}
	all := backends()
	total := 0
	for _, backend := range slices.Backward(slices.Sorted(maps.Keys(all))) {
		total += len(all[backend].attempts)
		for _, a := range all[backend].attempts {
			// The same attempt may be refused by other rules with another backend.
			id := a.who + "\n" + a.what + "\n" + a.rule
			if known[id] == nil {
				known[id] = &row{attempt: a}
				rows = append(rows, known[id])
			}
			known[id].backends = append(known[id].backends, backend)
			if !slices.Contains(whos, a.who) {
				whos = append(whos, a.who)
			}
		}
	}
	var s strings.Builder
	fmt.Fprintf(&s, "\n%d attempts, %d different ones.\n", total, len(rows))
	for _, who := range whos {
		fmt.Fprintf(&s, "\n### %s\n\n| Attempt | Refused by | Allowed instead | Backend |\n|---|---|---|---|\n", strings.ToUpper(who[:1])+who[1:])
		for _, r := range rows {
			if r.who != who {
				continue
			}
			rule := r.rule
			if isPolicy(rule) {
				rule = "policy `" + rule + "`"
			}
			backend := "both"
			if len(r.backends) == 1 {
				backend = r.backends[0]
			}
			fmt.Fprintf(&s, "| %s | %s | %s | %s |\n", r.what, rule, r.instead, backend)
		}
	}
	s.WriteString("\n")
	return s.String()
}
