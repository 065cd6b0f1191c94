//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// TestFull: a pod fills its volume. It gets ENOSPC, everything that it has written is intact, the
// claim's events warn, and after deleting a file it continues.
func TestFull(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Apply(claim("data", "64Mi") + pod("app", "data", idle))
	c.PodReady("app")
	c.Shell("app", "head -c 1000000 /dev/urandom >/data/kept; sha256sum /data/kept >/tmp/sum; sync")
	if _, err := c.TryExec("app", "sh", "-ec", "n=0; while n=$((n + 1)); do dd if=/dev/urandom of=/data/fill.$n bs=1000000 count=1 conv=fsync; done"); err == nil ||
		!strings.Contains(err.Error(), "No space left on device") {
		t.Errorf("filling it: %v", err)
	}
	c.Event("PersistentVolumeClaim", "data", "NearlyFull: .*expand")
	c.Shell("app", "sha256sum -c /tmp/sum; rm /data/fill.1 /data/fill.2 /data/fill.3 /data/fill.4")
	c.Shell("app", "head -c 1000000 /dev/urandom >/data/more; sync; rm /data/fill.*; sha256sum -c /tmp/sum")
	c.Shell("app", "head -c 30000000 /dev/zero >/data/much; sync")
	if n := c.PodReady("app").Status.ContainerStatuses[0].RestartCount; n != 0 {
		t.Errorf("it was restarted %d times", n)
	}
}
