//go:build e2e || e2e_ebs

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// claim is a claim of the chart's class, for tests that do not care about its details.
func claim(name, size string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s}
spec:
  storageClassName: sealvol
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: %s}}
`, name, size)
}

// pod is a pod that has a claim's volume at /data and runs a script.
func pod(name, claim, script string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  containers:
    - name: main
      image: docker.io/library/busybox:1.35
      command: [sh, -c, %q]
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: %s}}]
  terminationGracePeriodSeconds: 1
`, name, script, claim)
}

// idle is the script of a pod in which a test runs commands.
const idle = "sleep infinity"

// writes is the script of a pod that notices problems of its volume: it syncs files and reads them
// back without end. It prints a number for each, and "error" if one fails.
const writes = `
n=0
while :; do
	n=$((n + 1)) f=/data/load.$((n % 16))
	head -c 50000 /dev/urandom >/tmp/block
	dd if=/tmp/block of=$f bs=64k conv=fsync 2>/tmp/dd || { echo "error: write $n: $(cat /tmp/dd)"; sleep 1; }
	cmp /tmp/block $f || { echo "error: read $n"; sleep 1; }
	echo $n
	sleep 0.1
done`

// written returns how many files a pod with the script writes has written; the test fails if the
// pod met an error.
func written(t *testing.T, c *cluster.Cluster, pod string) int {
	t.Helper()
	out := c.Logs(pod)
	if i := strings.Index(out, "error"); i >= 0 {
		t.Fatalf("pod %s: %s", pod, out[i:min(len(out), i+500)])
	}
	lines := strings.Fields(out)
	if len(lines) == 0 {
		return 0
	}
	n, err := strconv.Atoi(lines[len(lines)-1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// writesOn waits until such a pod has written more files.
func writesOn(t *testing.T, c *cluster.Cluster, pod string, more int) {
	t.Helper()
	from := written(t, c, pod)
	c.Eventually(time.Minute, func() error {
		if n := written(t, c, pod); n < from+more {
			return fmt.Errorf("%d files, then %d", from, n)
		}
		return nil
	})
}
