//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"testing"

	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// TestMain has everything written down that the cluster says while stories run, and at the end looks for every key in it: what containers printed,
// events, every version of every object that is no Secret, the nodes' logs and the driver's own files.
func TestMain(m *testing.M) {
	r, err := cluster.Record()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e: run `make e2e`:", err)
		os.Exit(1)
	}
	code := m.Run()
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
