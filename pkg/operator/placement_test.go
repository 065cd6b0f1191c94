package operator_test

import (
	"fmt"
	"testing"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

const selectedNode = "volume.kubernetes.io/selected-node"

// placed waits until a claim has the given selected node.
func placed(t *testing.T, c *corev1.PersistentVolumeClaim, node string) {
	t.Helper()
	eventually(t, func() error {
		if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
			return err
		}
		if got := c.Annotations[selectedNode]; got != node {
			return fmt.Errorf("%s has the selected node %q, not %q", c.Name, got, node)
		}
		return nil
	})
}

func copyOf(ns, name, kind, source string) *corev1.PersistentVolumeClaim {
	c := operatortest.Claim(ns, name)
	c.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: kind, Name: source}
	if kind == "VolumeSnapshot" {
		group := snapshotv1.GroupName
		c.Spec.DataSource.APIGroup = &group
	}
	return c
}

// TestPlacement: the operator selects the node of the source for claims that are copies, once that
// is known. It leaves other claims to the scheduler. When the provisioner rejects a node, the
// operator does not select it again at once.
func TestPlacement(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	_, pv, _ := volume(t, ns, "data", del)
	node := pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0]

	clone, restored, plain := copyOf(ns, "clone", "PersistentVolumeClaim", "data"), copyOf(ns, "restored", "VolumeSnapshot", "snap"), operatortest.Claim(ns, "plain")
	create(t, clone, restored, plain)
	placed(t, clone, node)

	// The operator ignores a volume that the source claim only names.
	names, cheat := operatortest.Claim(ns, "names"), copyOf(ns, "cheat", "PersistentVolumeClaim", "names")
	names.Spec.VolumeName = pv.Name
	create(t, names, cheat)

	claim := "data"
	snap := &snapshotv1.VolumeSnapshot{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "snap"},
		Spec: snapshotv1.VolumeSnapshotSpec{Source: snapshotv1.VolumeSnapshotSource{PersistentVolumeClaimName: &claim}}}
	create(t, snap)
	content := &snapshotv1.VolumeSnapshotContent{ObjectMeta: metav1.ObjectMeta{Name: "content-" + ns, Labels: map[string]string{"snapshot.storage.kubernetes.io/managed-by": "node-9"}},
		Spec: snapshotv1.VolumeSnapshotContentSpec{Driver: "csi.sealvol.dev", DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete,
			Source:            snapshotv1.VolumeSnapshotContentSource{VolumeHandle: &pv.Spec.CSI.VolumeHandle},
			VolumeSnapshotRef: corev1.ObjectReference{Namespace: ns, Name: "snap", UID: snap.UID}}}
	create(t, content)
	snap.Status = &snapshotv1.VolumeSnapshotStatus{BoundVolumeSnapshotContentName: &content.Name}
	if err := env.Client.Status().Update(t.Context(), snap); err != nil {
		t.Fatal(err)
	}
	placed(t, restored, "node-9")

	// The provisioner rejects the node of the clone. That another claim is placed meanwhile shows
	// that the operator had time to select the node again.
	was := clone.DeepCopy()
	delete(clone.Annotations, selectedNode)
	if err := env.Client.Patch(t.Context(), clone, client.MergeFrom(was)); err != nil {
		t.Fatal(err)
	}
	second := copyOf(ns, "second", "PersistentVolumeClaim", "data")
	create(t, second)
	placed(t, second, node)
	placed(t, clone, "")
	placed(t, plain, "")
	placed(t, cheat, "")
	remove(t, second, names, cheat, clone, restored, plain, snap, content)
}
