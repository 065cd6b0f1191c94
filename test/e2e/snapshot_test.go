//go:build e2e

package e2e

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// copied is a claim whose volume is created as a copy.
func copied(name, kind, source string) string {
	group := ""
	if kind == "VolumeSnapshot" {
		group = "apiGroup: snapshot.storage.k8s.io, "
	}
	return fmt.Sprintf(`
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s}
spec:
  storageClassName: sealvol
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 128Mi}}
  dataSource: {%skind: %s, name: %s}
`, name, group, kind, source)
}

// TestSnapshot: a snapshot is taken of a volume in use and restored into a larger volume, and the
// volume is cloned. Copies use the key of their origin, which stays as long as one of them exists,
// even if the origin is deleted.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Apply(claim("origin", "64Mi") + pod("origin", "origin", idle))
	c.PodReady("origin")
	c.Shell("origin", "echo monday >/data/day; sync")
	c.Apply(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: monday}
spec: {volumeSnapshotClassName: sealvol, source: {persistentVolumeClaimName: origin}}
`)
	c.Kubectl("wait", "volumesnapshot/monday", "--for=jsonpath={.status.readyToUse}=true", "--timeout=2m")
	c.Shell("origin", "echo tuesday >/data/day; sync")

	c.Apply(copied("restored", "VolumeSnapshot", "monday") + pod("restored", "restored", idle) + copied("clone", "PersistentVolumeClaim", "origin") + pod("clone", "clone", idle))
	c.PodReady("restored")
	c.PodReady("clone")
	c.Shell("restored", "grep monday /data/day; test $(df -P -k /data | tail -n 1 | awk '{print $2}') -gt 100000")
	c.Shell("clone", "grep tuesday /data/day")
	key := sealed(t, c, "origin").Spec.Key
	for _, claim := range []string{"restored", "clone"} {
		if got := sealed(t, c, claim).Spec.Key; got.UID != key.UID || got.Fingerprint != key.Fingerprint {
			t.Errorf("%s has the key %+v, its origin %+v", claim, got, key)
		}
	}
	c.Shell("restored", "echo mine >/data/day") // copies are independent
	c.Shell("clone", "echo mine, too >/data/day")
	c.Shell("origin", "grep tuesday /data/day")

	// The origin is deleted; another volume can still be created from the snapshot.
	volume := c.Volume("origin").Name
	c.DeletePod("origin")
	c.Kubectl("delete", "pvc", "origin", "--wait=false")
	c.Gone(&corev1.PersistentVolume{}, volume)
	c.Apply(copied("again", "VolumeSnapshot", "monday") + pod("again", "again", idle))
	c.PodReady("again")
	c.Shell("again", "grep monday /data/day")
	cluster.Wait(c, &v1alpha1.VolumeKey{}, key.Name, cluster.Timeout, func(k *v1alpha1.VolumeKey) error {
		if k.DeletionTimestamp != nil || k.Status.Volumes != 4 {
			return fmt.Errorf("the key is used by %d volumes, deleted: %v", k.Status.Volumes, k.DeletionTimestamp)
		}
		return nil
	})

	// When all are gone, the key is deleted, too.
	c.Kubectl("delete", "pods", "--all", "--wait=false")
	c.Kubectl("delete", "volumesnapshot", "monday", "--wait=false")
	c.Kubectl("delete", "pvc", "--all", "--wait=false")
	c.Gone(&v1alpha1.VolumeKey{}, key.Name)
	c.Gone(&v1alpha1.SealedVolume{}, volume)
}
