//go:build e2e_install

package e2e

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealvol/sealvol/test/documenttest"
)

// TestInstall runs docs/install/try.md in a fresh clone: from the sources to a volume, in a cluster
// whose nodes have nothing of Sealvol, and back. It creates and ends the cluster.
func TestInstall(t *testing.T) {
	clone := t.TempDir()
	copied := exec.CommandContext(t.Context(), "bash", "-c", `set -o pipefail; git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$0"`, clone)
	copied.Dir = "../.."
	if out, err := copied.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// A user does not have the variables that make sets for the commands of this test.
	env := slices.DeleteFunc(os.Environ(), func(s string) bool {
		return slices.ContainsFunc([]string{"MAKE", "MFLAGS=", "KUBECONFIG=", "VERSION=", "DIST="}, func(prefix string) bool { return strings.HasPrefix(s, prefix) })
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	sh := newShell(ctx, t, clone, env)
	d := documenttest.Document{Path: "../../docs/install/try.md", Least: 20, Run: sh.run, Failed: func() {
		for _, command := range []string{
			"kubectl get pods,pvc,pv,sealedvolumes,volumekeys -A -o wide",
			"kubectl get events -A --sort-by=.lastTimestamp | tail -n 40",
			"kubectl -n sealvol-system logs --all-containers --prefix --ignore-errors -l app.kubernetes.io/name=sealvol --tail=20 --max-log-requests=50",
		} {
			out, err := sh.run(command)
			t.Logf("$ %s\n%s%v", command, out, err)
		}
	}}
	d.Check(t)
}
