//go:build e2e

package e2e

import (
	"testing"

	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// TestReadWriteOncePod: a claim for a single pod. A second pod waits, with a reason, and starts
// when the first is gone.
func TestReadWriteOncePod(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Apply(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  storageClassName: sealvol
  accessModes: [ReadWriteOncePod]
  resources: {requests: {storage: 64Mi}}
` + pod("first", "data", idle))
	c.PodReady("first")
	c.Shell("first", "echo mine >/data/note")

	c.Apply(pod("second", "data", idle))
	c.Event("Pod", "second", `FailedScheduling: .*ReadWriteOncePod`)
	c.DeletePod("first")
	c.PodReady("second")
	c.Shell("second", "grep mine /data/note")
}
