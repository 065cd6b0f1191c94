package operator_test

import (
	"fmt"
	"testing"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestCopies: clones and restored snapshots get the key of their origin. The key is kept for them
// when the origin is deleted.
func TestCopies(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	c, pv, kek := volume(t, ns, "data", del)
	vk := keyNamed(ns, pv.Name)
	key := keySecretOf(t, vk)

	clone := operatortest.Claim(ns, "clone")
	clone.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "data"}
	create(t, clone)
	prepared(t, "pvc-"+string(clone.UID))
	if sv := getSealed(t, "pvc-"+string(clone.UID)); sv.Spec.Key.SecretName != key.Name || sv.Spec.NodeName != "node-a" {
		t.Errorf("the clone has another key or node: %+v", sv.Spec)
	}

	content := "content-" + ns
	snap := &snapshotv1.VolumeSnapshot{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "snap"},
		Spec: snapshotv1.VolumeSnapshotSpec{Source: snapshotv1.VolumeSnapshotSource{PersistentVolumeClaimName: &c.Name}}}
	create(t, snap)
	restored := operatortest.Claim(ns, "restored")
	group := snapshotv1.GroupName
	restored.Spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: "snap"}
	create(t, restored)
	hasCondition(t, sealed("pvc-"+string(restored.UID)), v1alpha1.VolumeKeyReady, v1alpha1.ReasonKeyNotReady)
	cont := &snapshotv1.VolumeSnapshotContent{ObjectMeta: metav1.ObjectMeta{Name: content}, Spec: snapshotv1.VolumeSnapshotContentSpec{
		Driver: "csi.sealvol.dev", DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete,
		Source:            snapshotv1.VolumeSnapshotContentSource{VolumeHandle: &pv.Spec.CSI.VolumeHandle},
		VolumeSnapshotRef: corev1.ObjectReference{Namespace: ns, Name: "snap", UID: snap.UID}}}
	create(t, cont)
	snap.Status = &snapshotv1.VolumeSnapshotStatus{BoundVolumeSnapshotContentName: &content}
	if err := env.Client.Status().Update(t.Context(), snap); err != nil {
		t.Fatal(err)
	}
	prepared(t, "pvc-"+string(restored.UID))
	rpv := operatortest.Volume(restored, "node-a", del)
	rpv.Spec.CSI.VolumeAttributes = map[string]string{"keyVolume": pv.Spec.CSI.VolumeHandle}
	bind(t, restored, rpv)
	if delivered(t, rpv.Name) != kek {
		t.Error("the restored volume has another key")
	}

	remove(t, c, pv, clone)
	sv := sealed(pv.Name)
	gone(t, sealed("pvc-"+string(clone.UID)), secretNamed("pvc-"+string(clone.UID)))
	eventually(t, func() error {
		err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(sv), sv)
		if err == nil && sv.Status.Phase != v1alpha1.PhaseDeleted {
			err = fmt.Errorf("phase %s", sv.Status.Phase)
		}
		return err
	})
	remove(t, snap, cont)
	gone(t, sv)
	if _, err := get(t.Context(), key.Namespace, key.Name, &corev1.Secret{}); err != nil {
		t.Fatal("the key of the restored volume:", err)
	}
	remove(t, restored, rpv)
	gone(t, vk, key, sealed("pvc-"+string(restored.UID)))
}

// A copy that was provisioned while no operator ran, and whose origin was deleted meanwhile, still
// gets the key.
func TestCopyOutlivesOrigin(t *testing.T) {
	stop := start(t, nil)
	ns := namespace(t)
	c, pv, kek := volume(t, ns, "data", del)
	stop()
	clone := operatortest.Claim(ns, "clone")
	clone.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "data"}
	create(t, clone)
	cpv := operatortest.Volume(clone, "node-a", del)
	cpv.Spec.CSI.VolumeAttributes = map[string]string{"keyVolume": pv.Spec.CSI.VolumeHandle}
	bind(t, clone, cpv)
	remove(t, c, pv)
	start(t, nil)
	if delivered(t, cpv.Name) != kek {
		t.Error("another key")
	}
	gone(t, sealed(pv.Name), secretNamed(pv.Name))
	remove(t, clone, cpv)
	gone(t, sealed(cpv.Name), keyNamed(ns, pv.Name))
}

// A copy that never gets a key keeps the key of its origin only until the copy is deleted.
func TestWaitingCopyDeleted(t *testing.T) {
	stop := start(t, nil)
	ns := namespace(t)
	c, pv, _ := volume(t, ns, "data", del)
	stop()
	clone := operatortest.Claim(ns, "clone")
	clone.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "data"}
	create(t, clone)
	remove(t, c, pv)
	start(t, nil)
	hasCondition(t, sealed("pvc-"+string(clone.UID)), v1alpha1.VolumeKeyReady, v1alpha1.ReasonSourceUnknown)
	sv := sealed(pv.Name)
	eventually(t, func() error {
		err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(sv), sv)
		if err == nil && sv.Status.Phase != v1alpha1.PhaseDeleted {
			err = errStays
		}
		return err
	})
	remove(t, clone)
	gone(t, sv, sealed("pvc-"+string(clone.UID)), keyNamed(ns, pv.Name))
}
