package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/onsi/ginkgo/v2/types"
)

func spec(state types.SpecState, message string) types.SpecReport {
	return types.SpecReport{LeafNodeType: types.NodeTypeIt, LeafNodeText: "a spec", State: state, Failure: types.Failure{Message: message}}
}

func write1(t *testing.T, specs ...types.SpecReport) string {
	t.Helper()
	b, err := json.Marshal([]types.Report{{SpecReports: specs}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "report.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestReport(t *testing.T) {
	file := write1(t, spec(types.SpecStatePassed, ""), spec(types.SpecStateSkipped, ""), spec(types.SpecStateSkipped, `Driver "a" has none - skipping`),
		spec(types.SpecStateSkipped, `Driver "b" has none - skipping`))
	var out strings.Builder
	if err := run(&out, file, 1, 1); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"passed     1\n", "failed     0\n", "skipped    2\n", "2  Driver … has none\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if err := run(io.Discard, file, 2, 0); err == nil {
		t.Error("too few specs were accepted")
	}
}

// Everything that is not a success must fail the run.
func TestReportFails(t *testing.T) {
	setUp := types.SpecReport{LeafNodeType: types.NodeTypeBeforeSuite, State: types.SpecStateFailed}
	for name, s := range map[string]types.SpecReport{"failed": spec(types.SpecStateFailed, "x"), "panicked": spec(types.SpecStatePanicked, "x"),
		"timed out": spec(types.SpecStateTimedout, "x"), "interrupted": spec(types.SpecStateInterrupted, "x"), "set-up": setUp} {
		if err := run(io.Discard, write1(t, spec(types.SpecStatePassed, ""), s), 1, 0); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, file := range []string{filepath.Join(t.TempDir(), "missing"), "main.go"} {
		if err := run(io.Discard, file, 0, 0); err == nil {
			t.Errorf("%s: accepted", file)
		}
	}
}
