// Command report summarises a run of Kubernetes' storage suite from ginkgo's JSON report: what
// passed, failed, and was skipped for which reason. It fails if a spec failed, or if suspiciously
// few passed.
//
//	report [-least 100] REPORT.json
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/onsi/ginkgo/v2/types"
)

func main() {
	least := flag.Int("least", 1, "minimum number of specs that must have passed")
	slow := flag.Int("slow", 0, "how many of the slowest specs to list")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(os.Stdout, flag.Arg(0), *least, *slow); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(w io.Writer, file string, least, slow int) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var reports []types.Report
	if err := json.Unmarshal(b, &reports); err != nil {
		return err
	}
	var passed, failed []types.SpecReport
	skipped := map[string]int{}
	for _, s := range specs(reports) {
		switch {
		case s.State == types.SpecStatePassed:
			passed = append(passed, s)
		case s.State == types.SpecStateSkipped && s.Failure.Message != "":
			skipped[reason(s.Failure.Message)]++
		case s.State == types.SpecStateSkipped, s.State == types.SpecStatePending: // not selected
		default:
			failed = append(failed, s)
		}
	}
	return write(w, passed, failed, skipped, least, slow)
}

// specs returns all specs, and failures of the suite's set-up and clean-up.
func specs(reports []types.Report) (all []types.SpecReport) {
	for _, r := range reports {
		for _, s := range r.SpecReports {
			if s.LeafNodeType == types.NodeTypeIt || s.Failed() {
				all = append(all, s)
			}
		}
	}
	return all
}

// values in a reason that differ between specs.
var values = regexp.MustCompile(`"[^"]*"|'[^']*'`)

func reason(message string) string {
	first, _, _ := strings.Cut(message, "\n")
	return strings.TrimSuffix(values.ReplaceAllString(first, "…"), " - skipping")
}

func write(w io.Writer, passed, failed []types.SpecReport, skipped map[string]int, least, slow int) (err error) {
	say := func(format string, args ...any) {
		_, werr := fmt.Fprintf(w, format, args...)
		err = errors.Join(err, werr)
	}
	total := 0
	for _, n := range skipped {
		total += n
	}
	say("passed  %4d\nfailed  %4d\nskipped %4d\n", len(passed), len(failed), total)
	for _, r := range slices.SortedFunc(maps.Keys(skipped), func(a, b string) int { return skipped[b] - skipped[a] }) {
		say("        %4d  %s\n", skipped[r], r)
	}
	slices.SortFunc(passed, func(a, b types.SpecReport) int { return int(b.RunTime - a.RunTime) })
	for _, s := range passed[:min(slow, len(passed))] {
		say("%8s  %s\n", s.RunTime.Round(time.Second), s.FullText())
	}
	for _, s := range failed {
		say("FAILED %s\n       %s\n", s.FullText(), strings.ReplaceAll(strings.TrimSpace(first(s.Failure.Message, 500)), "\n", "\n       "))
	}
	switch {
	case len(failed) > 0:
		return errors.Join(err, fmt.Errorf("%d specs failed", len(failed)))
	case len(passed) < least:
		return errors.Join(err, fmt.Errorf("only %d specs passed, want at least %d", len(passed), least))
	}
	return err
}

func first(s string, n int) string { return s[:min(n, len(s))] }
