//go:build e2e_ebs

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// podOn returns a pod that runs on one node.
func podOn(node, name, claim, script string) string {
	return strings.Replace(pod(name, claim, script), "spec:\n", "spec:\n  nodeSelector: {kubernetes.io/hostname: "+node+"}\n", 1)
}

// at returns EC2's volume of a claim.
func at(t *testing.T, c *cluster.Cluster, claim string) ec2test.Volume {
	t.Helper()
	id := c.Volume(claim).Spec.CSI.VolumeHandle
	for _, v := range ec2.Volumes() {
		if v.ID == id {
			return v
		}
	}
	t.Fatalf("EC2 has no volume %s", id)
	return ec2test.Volume{}
}

// follows waits until a claim's SealedVolume says that a node has the volume, and that its anchor
// was published.
func follows(t *testing.T, c *cluster.Cluster, claim, node string, newer int64) (generation int64) {
	t.Helper()
	cluster.Wait(c, &v1alpha1.SealedVolume{}, c.Volume(claim).Name, cluster.Timeout, func(v *v1alpha1.SealedVolume) error {
		if v.Spec.NodeName != node || v.Status.Node != node || v.Status.Anchor == nil || v.Status.Anchor.Generation <= newer {
			return fmt.Errorf("node %q, in use on %q, anchor %+v", v.Spec.NodeName, v.Status.Node, v.Status.Anchor)
		}
		generation = v.Status.Anchor.Generation
		return nil
	})
	return generation
}

// TestEBSMove: a claim gets an EBS volume, a pod writes to it and is deleted, and a pod on the
// other node finds everything. The anchor moves, too. EC2 stores only ciphertext. When the claim is
// deleted, so is the volume.
func TestEBSMove(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Apply(claim("data", "1Gi") + podOn(nodeNames[0], "first", "data", idle))
	c.PodReady("first")
	v := at(t, c, "data")
	if v.GiB != 1 || v.Type != "gp3" || v.Tags["team"] != "storage" || !slices.Equal(v.Instances, []string{instances[0].ID}) {
		t.Errorf("%+v", v)
	}
	c.Shell("first", `
		echo 'a secret that EC2 must not see' >/data/note
		head -c 20000000 /dev/urandom >/data/random
		cd /data && sha256sum note random >sums
		sync note random sums`)
	anchor := follows(t, c, "data", nodeNames[0], 0)
	keyOnlyOn(t, c, "data", 0)
	c.DeletePod("first")

	c.Apply(podOn(nodeNames[1], "second", "data", idle))
	c.PodReady("second")
	c.Shell("second", "cd /data && sha256sum -c sums")
	if v := at(t, c, "data"); !slices.Equal(v.Instances, []string{instances[1].ID}) {
		t.Errorf("%+v", v)
	}
	follows(t, c, "data", nodeNames[1], anchor)
	keyOnlyOn(t, c, "data", 1)
	if n := plaintext(t, v.ID, "EC2 must not see"); n != 0 {
		t.Errorf("%d times plaintext in the volume", n)
	}

	key := sealed(t, c, "data").Spec.Key.Name
	c.Kubectl("delete", "pod,pvc", "--all", "--wait=false")
	c.Gone(&v1alpha1.VolumeKey{}, key)
	deleted(c, v.ID)
}

// keyOnlyOn checks that only the kubelet of one node can read the key of a claim's volume.
func keyOnlyOn(t *testing.T, c *cluster.Cluster, claim string, node int) {
	t.Helper()
	for i := range nodeNames {
		get := []string{"--kubeconfig", filepath.Join(os.Getenv("CLUSTER_STATE"), "pki", fmt.Sprintf("kubelet-%d.conf", i+1)), "-n", c.System, "get", "secret", c.Volume(claim).Name, "-o", "name"}
		if i == node {
			c.Kubectl(get...)
		} else if out := c.KubectlFails(get...); !strings.Contains(out, "no relationship found between node") {
			t.Error(out)
		}
	}
}

// deleted waits until EC2 has deleted a volume.
func deleted(c *cluster.Cluster, id string) {
	c.Eventually(cluster.Timeout, func() error {
		for _, v := range ec2.Volumes() {
			if v.ID == id && v.State != "deleting" {
				return fmt.Errorf("there still is %+v", v)
			}
		}
		return nil
	})
}

// plaintext counts a text in EC2's data of a volume.
func plaintext(t *testing.T, id, text string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(os.Getenv("CLUSTER_STATE"), "ec2/data", id))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), text)
}

// TestEBSExpand: a claim is expanded while a pod writes to its volume, and again while it is not in
// use.
func TestEBSExpand(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Apply(claim("data", "1Gi") + podOn(nodeNames[0], "load", "data", writes))
	c.PodReady("load")
	writesOn(t, c, "load", 5)
	c.Kubectl("patch", "pvc", "data", "-p", `{"spec": {"resources": {"requests": {"storage": "2Gi"}}}}`)
	hasSize(c, "data", "2Gi")
	if b := sizeOf(t, c); b < 15<<27 {
		t.Errorf("the file system has %d bytes", b)
	}
	writesOn(t, c, "load", 5)

	c.DeletePod("load")
	c.Kubectl("patch", "pvc", "data", "-p", `{"spec": {"resources": {"requests": {"storage": "3Gi"}}}}`)
	c.Eventually(cluster.Timeout, func() error {
		if v := at(t, c, "data"); v.GiB != 3 {
			return fmt.Errorf("%+v", v)
		}
		return nil
	})
	c.Apply(podOn(nodeNames[0], "load", "data", writes))
	c.PodReady("load")
	hasSize(c, "data", "3Gi")
	if b := sizeOf(t, c); b < 23<<27 {
		t.Errorf("the file system has %d bytes", b)
	}
	writesOn(t, c, "load", 5)
}

// hasSize waits until a claim has a size and the expansion is complete.
func hasSize(c *cluster.Cluster, claim, size string) {
	want := resource.MustParse(size)
	cluster.Wait(c, &corev1.PersistentVolumeClaim{}, claim, cluster.Timeout, func(p *corev1.PersistentVolumeClaim) error {
		if has := p.Status.Capacity[corev1.ResourceStorage]; has.Cmp(want) != 0 || len(p.Status.Conditions) > 0 {
			return fmt.Errorf("it has %s, conditions %v", has.String(), p.Status.Conditions)
		}
		return nil
	})
}

// sizeOf returns the size that df shows in the pod load.
func sizeOf(t *testing.T, c *cluster.Cluster) int64 {
	t.Helper()
	k, err := strconv.ParseInt(strings.Fields(c.Shell("load", "df -P -k /data | tail -n 1"))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return k << 10
}

// TestEBSAttributesClass: a volume in use becomes a faster one. If EC2 refuses a class, the event
// has EC2's message.
func TestEBSAttributesClass(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Apply(claim("data", "1Gi") + podOn(nodeNames[0], "load", "data", writes))
	c.PodReady("load")
	c.Kubectl("patch", "pvc", "data", "-p", `{"spec": {"volumeAttributesClassName": "sealvol-absurd"}}`)
	c.Event("PersistentVolumeClaim", "data", "VolumeModifyFailed: .*Iops to volume size ratio of 4000 is too high")
	c.Kubectl("patch", "pvc", "data", "-p", `{"spec": {"volumeAttributesClassName": "sealvol-fast"}}`)
	cluster.Wait(c, &corev1.PersistentVolumeClaim{}, "data", cluster.Timeout, func(p *corev1.PersistentVolumeClaim) error {
		if now := p.Status.CurrentVolumeAttributesClassName; now == nil || *now != "sealvol-fast" {
			return fmt.Errorf("%+v", p.Status)
		}
		return nil
	})
	if v := at(t, c, "data"); v.IOPS != 3000 || v.Throughput != 250 {
		t.Errorf("%+v", v)
	}
	writesOn(t, c, "load", 5)
}

// TestEBSSnapshot: an EC2 snapshot of a volume in use becomes a volume on the other node, with the
// key of its origin, even after the origin is deleted.
func TestEBSSnapshot(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Apply(claim("origin", "1Gi") + podOn(nodeNames[0], "origin", "origin", idle))
	c.PodReady("origin")
	c.Shell("origin", "echo monday >/data/day; sync /data/day")
	c.Apply(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: monday}
spec: {volumeSnapshotClassName: sealvol, source: {persistentVolumeClaimName: origin}}
`)
	c.Kubectl("wait", "volumesnapshot/monday", "--for=jsonpath={.status.readyToUse}=true", "--timeout=2m")
	c.Shell("origin", "echo tuesday >/data/day; sync /data/day")
	key := sealed(t, c, "origin").Spec.Key
	volume, handle := c.Volume("origin").Name, c.Volume("origin").Spec.CSI.VolumeHandle
	// Somebody imports the snapshot by hand: its source volume is recorded, because its key is
	// needed.
	snapshot := c.Kubectl("get", "volumesnapshotcontent", c.Kubectl("get", "volumesnapshot", "monday", "-o", "jsonpath={.status.boundVolumeSnapshotContentName}"), "-o", "jsonpath={.status.snapshotHandle}")
	c.Apply(fmt.Sprintf(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotContent
metadata: {name: %[1]s}
spec:
  driver: csi.sealvol.dev
  deletionPolicy: Retain
  source: {snapshotHandle: %[2]s}
  volumeSnapshotRef: {namespace: %[1]s, name: by-hand}
`, c.Namespace, snapshot))
	c.Kubectl("wait", "volumesnapshotcontent/"+c.Namespace, `--for=jsonpath={.metadata.annotations.sealvol\.dev/source-volume}=`+handle, "--timeout=2m")
	c.Kubectl("delete", "volumesnapshotcontent", c.Namespace)
	c.DeletePod("origin")
	c.Kubectl("delete", "pvc", "origin", "--wait=false")
	c.Gone(&corev1.PersistentVolume{}, volume)

	c.Apply(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: restored}
spec:
  storageClassName: sealvol
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 2Gi}}
  dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: monday}
` + podOn(nodeNames[1], "restored", "restored", idle))
	c.PodReady("restored")
	c.Shell("restored", "grep monday /data/day; test $(df -P -k /data | tail -n 1 | awk '{print $2}') -gt 1500000")
	if got := sealed(t, c, "restored").Spec.Key; got.UID != key.UID || got.Fingerprint != key.Fingerprint {
		t.Errorf("the copy has the key %+v, its origin %+v", got, key)
	}
	follows(t, c, "restored", nodeNames[1], 0)
	c.Kubectl("delete", "pod,pvc,volumesnapshot", "--all", "--wait=false")
	c.Gone(&v1alpha1.VolumeKey{}, key.Name)
}

// TestEBSMultiAttach: a second pod on another node waits, with a reason, until the first pod is
// gone.
func TestEBSMultiAttach(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Apply(claim("data", "1Gi") + podOn(nodeNames[0], "first", "data", idle))
	c.PodReady("first")
	c.Apply(podOn(nodeNames[1], "second", "data", idle))
	c.Event("Pod", "second", "FailedAttachVolume: Multi-Attach error")
	c.Shell("first", "echo mine >/data/note; sync /data/note")
	if v := at(t, c, "data"); !slices.Equal(v.Instances, []string{instances[0].ID}) {
		t.Errorf("%+v", v)
	}
	c.DeletePod("first")
	c.PodReady("second")
	c.Shell("second", "grep mine /data/note")
}

// TestEBSFullNode: a pod with more volumes than a node can have is not scheduled there.
func TestEBSFullNode(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	var claims, volumes string
	for i := range smallRoom + 1 {
		claims += claim(fmt.Sprint("data-", i), "1Gi")
		volumes += fmt.Sprintf("    - {name: data-%d, persistentVolumeClaim: {claimName: data-%d}}\n", i, i)
	}
	many := func(name string) string {
		return strings.Replace(pod(name, "data-0", idle), "  volumes: [{name: data, persistentVolumeClaim: {claimName: data-0}}]\n", "  volumes:\n    - {name: data, persistentVolumeClaim: {claimName: data-0}}\n"+
			volumes[strings.IndexByte(volumes, '\n')+1:], 1)
	}
	c.Apply(claims + strings.Replace(many("pinned"), "spec:\n", "spec:\n  nodeSelector: {kubernetes.io/hostname: "+nodeNames[1]+"}\n", 1))
	c.Event("Pod", "pinned", "FailedScheduling: .*exceed max volume count")
	c.DeletePod("pinned")
	c.Apply(many("free"))
	if p := c.PodReady("free"); p.Spec.NodeName != nodeNames[0] {
		t.Errorf("it runs on %s", p.Spec.NodeName)
	}
}

// TestEBSOtherBackend: a release cannot be changed to another backend, which would not find its
// volumes.
func TestEBSOtherBackend(t *testing.T) {
	t.Parallel()
	err := helm("upgrade", "sealvol", "../../charts/sealvol", "--namespace", os.Getenv("SEALVOL_NAMESPACE"), "--reset-values", "--dry-run=server")
	if err == nil || !strings.Contains(err.Error(), "with another backend. Uninstall it first") {
		t.Error(err)
	}
}
