//go:build e2e

package e2e

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

	corev1 "k8s.io/api/core/v1"

	"github.com/sealvol/sealvol/test/e2e/cluster"
)

var update = flag.Bool("update-tour", false, "write what the tour's commands print into docs/tour.md")

// TestTour runs every command of docs/tour.md, as it is written there, and compares what it prints with what is written below it, but for
// names, numbers and times.
func TestTour(t *testing.T) {
	c := cluster.New(t) // what fails is collected
	const doc = "../../docs/tour.md"
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	steps := stepsOf(string(text))
	if len(steps) < 20 {
		t.Fatalf("the tour has %d commands", len(steps))
	}
	t.Cleanup(func() {
		c.Kubectl("delete", "namespace", "tour", "--ignore-not-found", "--wait=false")
		c.Gone(&corev1.Namespace{}, "tour")
	})
	got := tour(t, c, steps)
	for i, s := range steps {
		if !*update && !slices.Equal(masked(s.prints), masked(got[i])) {
			t.Errorf("$ %s\nprints\n%s\nthe tour says\n%s", s.command, got[i], s.prints)
		}
	}
	if !*update {
		return
	}
	out := strings.Builder{}
	rest := string(text)
	for i, s := range steps {
		before, after, _ := strings.Cut(rest, "$ "+s.command+"\n"+s.prints)
		fmt.Fprintf(&out, "%s$ %s\n%s", before, s.command, got[i])
		rest = after
	}
	if err := os.WriteFile(doc, []byte(out.String()+rest), 0o644); err != nil {
		t.Fatal(err)
	}
}

// step is a command and what is printed below it.
type step struct{ command, prints string }

// stepsOf finds the commands in the blocks of a document that are called console.
func stepsOf(text string) []step {
	var steps []step
	inside := false
	for line := range strings.Lines(text) {
		command, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case strings.HasPrefix(line, "```"):
			inside = strings.TrimSpace(line) == "```console"
		case inside && isCommand:
			steps = append(steps, step{command: strings.TrimSpace(command)})
		case inside && len(steps) > 0:
			steps[len(steps)-1].prints += line
		}
	}
	return steps
}

// tour runs all commands in one shell, with a kubeconfig of its own, since they change its default namespace.
func tour(t *testing.T, c *cluster.Cluster, steps []step) []string {
	t.Helper()
	config, err := os.ReadFile(os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(own, config, 0o600); err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	const mark = "\x1e"
	for _, s := range steps {
		fmt.Fprintf(&script, "%s\nprintf '%s'\n", s.command, mark)
	}
	ctx, cancel := context.WithTimeout(c.Context(), 6*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash")
	cmd.Dir, cmd.Stdin = "../..", strings.NewReader(script.String())
	cmd.Env = append(os.Environ(), "KUBECONFIG="+own)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	printed := strings.Split(string(out), mark)
	if err != nil || len(printed) != len(steps)+1 {
		t.Fatalf("%v: %d of %d commands ran:\n%s", err, len(printed)-1, len(steps), out)
	}
	return printed[:len(steps)]
}

var (
	uuids    = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	numbered = regexp.MustCompile(`\S*[0-9]\S*`)
)

// masked is output without what is another each time, its lines in order.
func masked(s string) []string {
	var all []string
	for line := range strings.Lines(s) {
		line = uuids.ReplaceAllString(line, "0")
		if strings.Trim(line, "0123456789\n") != "" { // a count says something
			line = numbered.ReplaceAllString(line, "#")
		}
		all = append(all, strings.Join(strings.Fields(line), " "))
	}
	slices.Sort(all)
	return all
}
