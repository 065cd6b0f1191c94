//go:build e2e

package e2e

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// TestEphemeral: a pod has an ephemeral volume. When the pod is deleted, so are the claim, the
// volume, its image and its key.
func TestEphemeral(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: worker}
spec:
  containers:
    - name: main
      image: docker.io/library/busybox:1.35
      command: [sleep, infinity]
      volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes:
    - name: scratch
      ephemeral:
        volumeClaimTemplate:
          spec:
            storageClassName: sealvol
            accessModes: [ReadWriteOnce]
            resources: {requests: {storage: 64Mi}}
  terminationGracePeriodSeconds: 1
`)
	node := c.PodReady("worker").Spec.NodeName
	c.Shell("worker", "head -c 1000000 /dev/urandom >/scratch/file; sync")
	left := remainsOf(t, c, node, "worker-scratch")
	c.DeletePod("worker")
	c.Gone(&corev1.PersistentVolumeClaim{}, "worker-scratch")
	left.gone()
}
