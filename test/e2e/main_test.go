//go:build e2e || e2e_ebs

package e2e

import (
	"fmt"
	"os"
	"testing"

	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// prepare brings what the stories need besides the cluster with its chart, and returns how that ends, and is checked if they did not fail.
var prepare = func() (end func(failed bool) error, err error) { return func(bool) error { return nil }, nil }

// TestMain has everything written down that the cluster says while stories run, and at the end looks for every key in it: what containers printed,
// events, every version of every object that is no Secret, the nodes' logs and the driver's own files.
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
