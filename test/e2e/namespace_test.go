//go:build e2e

package e2e

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// TestNamespaceDeleted: a namespace is deleted at once, with pods that write, an unused claim, a
// clone, a snapshot and all the keys. Nothing of it is left: no volume, no image, no SealedVolume,
// no Secret, and nothing waits for ever for something else.
func TestNamespaceDeleted(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Apply(claim("data", "64Mi") + pod("load", "data", writes) + claim("unused", "64Mi") + `
---
apiVersion: sealvol.dev/v1alpha1
kind: VolumeKey
metadata: {name: ours}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: with-our-key, annotations: {sealvol.dev/volume-key: ours}}
spec:
  storageClassName: sealvol
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 64Mi}}
` + pod("other", "with-our-key", idle) + `
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: snapshot}
spec: {volumeSnapshotClassName: sealvol, source: {persistentVolumeClaimName: data}}
`)
	node := c.PodReady("load").Spec.NodeName
	otherNode := c.PodReady("other").Spec.NodeName
	c.Kubectl("wait", "volumesnapshot/snapshot", "--for=jsonpath={.status.readyToUse}=true", "--timeout=2m")
	c.Apply(copied("clone", "PersistentVolumeClaim", "data") + pod("clone", "clone", idle))
	c.PodReady("clone")
	all := []remains{remainsOf(t, c, node, "data"), remainsOf(t, c, otherNode, "with-our-key"), remainsOf(t, c, node, "clone")}

	c.Kubectl("delete", "namespace", c.Namespace, "--wait=false")
	c.Gone(&corev1.Namespace{}, c.Namespace)
	for _, r := range all {
		r.gone()
	}
}
