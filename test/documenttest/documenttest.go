// Package documenttest runs the commands of a document and compares what they print with it.
package documenttest

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update-docs", false, "write what the commands of documents print into them")

// Document is a document whose commands a test runs.
type Document struct {
	Path string
	// Least is how many commands it has at least, so that none are overlooked.
	Least int
	// Run runs a command in the shell of the document, and returns what it prints.
	Run func(command string) (string, error)
	// Failed, if not nil, is called at the first difference. It may run more commands in the shell.
	Failed func()
}

// step is a command and its expected output.
type step struct{ command, prints string }

// stepsOf finds the commands in a document's code blocks of type console. A line that ends with a
// backslash continues on the next one.
func stepsOf(text string) []step {
	var steps []step
	inside := false
	for line := range strings.Lines(text) {
		command, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case strings.HasPrefix(line, "```"):
			inside = strings.TrimSpace(line) == "```console"
		case inside && len(steps) > 0 && strings.HasSuffix(steps[len(steps)-1].command, "\\"):
			steps[len(steps)-1].command += "\n" + strings.TrimRight(line, "\n")
		case inside && isCommand:
			steps = append(steps, step{command: strings.TrimSpace(command)})
		case inside && len(steps) > 0:
			steps[len(steps)-1].prints += line
		}
	}
	return steps
}

// Check runs every command of the document in turn, and compares its output with the document,
// except for names, numbers and times. It ends at the first difference.
func (d *Document) Check(t testing.TB) {
	t.Helper()
	text, err := os.ReadFile(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	steps := stepsOf(string(text))
	if len(steps) < d.Least {
		t.Fatalf("%s has %d commands", d.Path, len(steps))
	}
	out, rest := strings.Builder{}, string(text)
	for _, s := range steps {
		got, err := d.Run(s.command)
		if err != nil {
			t.Fatalf("%s: $ %s\n%s%v", d.Path, s.command, got, err)
		}
		if !*update && !slices.Equal(masked(s.prints), masked(got)) {
			t.Errorf("$ %s\nprints\n%s\n%s says\n%s", s.command, got, d.Path, s.prints)
			if d.Failed != nil {
				d.Failed()
			}
			return
		}
		before, after, found := strings.Cut(rest, "$ "+s.command+"\n"+s.prints)
		if !found {
			t.Fatalf("%s: $ %s: it cannot be found again", d.Path, s.command)
		}
		fmt.Fprintf(&out, "%s$ %s\n%s", before, s.command, got)
		rest = after
	}
	if *update {
		if err := os.WriteFile(d.Path, []byte(out.String()+rest), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var (
	uuids    = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	numbered = regexp.MustCompile(`\S*[0-9]\S*`)
)

// masked replaces in an output what differs each time. Lines are sorted, since the order of some
// lists depends on identities.
func masked(s string) []string {
	var all []string
	for line := range strings.Lines(s) {
		if strings.HasPrefix(line, "go: downloading ") { // only the first time
			continue
		}
		line = uuids.ReplaceAllString(line, "0")
		if strings.Trim(line, "0123456789\n") != "" { // a count is compared
			line = numbered.ReplaceAllString(line, "#")
		}
		all = append(all, strings.Join(strings.Fields(line), " "))
	}
	slices.Sort(all)
	return all
}
