//go:build e2e || e2e_ebs

package e2e

import (
	"fmt"
	"os"
	"testing"

	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// prepare sets up what the stories need in addition to the cluster with its chart. The returned
// function cleans up, and checks the result if no story failed.
var prepare = func() (end func(failed bool) error, err error) { return func(bool) error { return nil }, nil }

// TestMain records the cluster while stories run, and at the end searches everything for every key:
// output of containers, events, every version of every object except Secrets, the nodes' logs and
// the driver's own files.
func TestMain(m *testing.M) {
	end, err := prepare()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e: run `make e2e`:", err)
		os.Exit(1)
	}
	r, err := cluster.Record()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e: run `make e2e`:", err)
		os.Exit(1)
	}
	code := m.Run()
	if err := end(code != 0); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: at the end:", err)
		code = 1
	}
	leaks, err := r.Leaks()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e: looking for keys:", err)
		code = 1
	}
	fmt.Println("e2e:", r.Summary)
	for _, l := range leaks {
		fmt.Fprintln(os.Stderr, "e2e: LEAKED:", l)
		code = 1
	}
	os.Exit(code)
}
