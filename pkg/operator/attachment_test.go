package operator_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

func attachments(_ *ctrl.Options, o *operator.Options) { o.Attachments = true }

// zonal creates a claim with a volume in a zone, and waits for the key.
func zonal(t *testing.T, ns, name string) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, string) {
	t.Helper()
	c := operatortest.Claim(ns, name)
	create(t, c)
	prepared(t, "pvc-"+string(c.UID))
	pv := operatortest.Volume(c, "", del)
	pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0] = corev1.NodeSelectorRequirement{
		Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{"zone-a"}}
	bind(t, c, pv)
	return c, pv, delivered(t, pv.Name)
}

// attachment returns a VolumeAttachment as the attach-detach controller creates it.
func attachment(pv *corev1.PersistentVolume, node string) *storagev1.VolumeAttachment {
	return &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "csi-" + node + "-" + pv.Name, Finalizers: []string{"external-attacher/csi-sealvol-dev"}},
		Spec: storagev1.VolumeAttachmentSpec{Attacher: operator.DriverName, NodeName: node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &pv.Name}}}
}

// isOn waits until the SealedVolume of a volume has the given node and phase.
func isOn(t *testing.T, pv *corev1.PersistentVolume, node string, phase v1alpha1.Phase) *v1alpha1.SealedVolume {
	t.Helper()
	sv := sealed(pv.Name)
	eventually(t, func() error {
		err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(sv), sv)
		if err == nil && (sv.Spec.NodeName != node || sv.Status.Phase != phase) {
			err = fmt.Errorf("node %q, phase %s: %+v", sv.Spec.NodeName, sv.Status.Phase, sv.Status)
		}
		return err
	})
	return sv
}

// attachedCopy creates a copy of a volume without node affinity, and checks that it gets the key of
// its origin.
func attachedCopy(t *testing.T, ns string, pv *corev1.PersistentVolume, kek string) {
	t.Helper()
	clone := copyOf(ns, "clone", "PersistentVolumeClaim", "data")
	create(t, clone)
	copied := operatortest.Volume(clone, "", del)
	copied.Spec.NodeAffinity = nil
	copied.Spec.CSI.VolumeAttributes = map[string]string{"keyVolume": pv.Spec.CSI.VolumeHandle}
	create(t, attachment(copied, "node-c"))
	bind(t, clone, copied)
	isOn(t, copied, "node-c", v1alpha1.PhaseAvailable)
	if delivered(t, copied.Name) != kek {
		t.Error("the copy has another key")
	}
	placed(t, clone, "")
	remove(t, clone, copied, release(t, attachment(copied, "node-c")))
	gone(t, sealed(copied.Name))
}

// TestAttachments: if volumes move, the node of a volume is the one that it is attached to. Only
// this node can report on it and raise its anchor. The previous node cannot. When it is lost, its
// report is removed, but the anchor stays. The key is the same on all nodes.
func TestAttachments(t *testing.T) {
	start(t, nil, attachments)
	ns := namespace(t)
	c, pv, kek := zonal(t, ns, "data")
	isOn(t, pv, "", v1alpha1.PhaseAvailable)
	report := func(node string, generation int64) func() error {
		k := clientOf(t, "node", node)
		return func() error {
			sv := sealed(pv.Name)
			if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(sv), sv); err != nil {
				return err
			}
			patch := client.MergeFrom(sv.DeepCopy())
			anchored(sv, generation, 1, "a")
			sv.Status.Node, sv.Status.Health = node, v1alpha1.HealthHealthy
			meta.SetStatusCondition(&sv.Status.Conditions, metav1.Condition{Type: v1alpha1.VolumeHealthy, Status: metav1.ConditionTrue, Reason: "AsExpected"})
			return k.Status().Patch(t.Context(), sv, patch)
		}
	}
	denied(t, "before it is attached", "sealvol-reports", report("node-a", 5))

	other := attachment(pv, "node-b") // of another driver, with a PersistentVolume of the same name
	other.Spec.Attacher, other.Name = "other.example", "other-"+pv.Name
	a := attachment(pv, "node-a")
	create(t, other, a)
	isOn(t, pv, "node-a", v1alpha1.PhaseAvailable)
	denied(t, "by another node", "sealvol-reports", report("node-b", 9))
	if err := report("node-a", 5)(); err != nil {
		t.Fatal(err)
	}
	isOn(t, pv, "node-a", v1alpha1.PhaseStaged)

	// The node is lost: the volume is detached by force, and the node never reports that it no
	// longer has it.
	if err := env.Client.Delete(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	isOn(t, pv, "node-a", v1alpha1.PhaseStaged) // until the attachment is gone
	remove(t, release(t, a))
	sv := isOn(t, pv, "", v1alpha1.PhaseAvailable)
	if s := sv.Status; s.Node != "" || s.Health != "" || meta.FindStatusCondition(s.Conditions, v1alpha1.VolumeHealthy) != nil || s.Anchor == nil || s.Anchor.Generation != 5 {
		t.Errorf("%+v", s)
	}
	b := attachment(pv, "node-b")
	create(t, b)
	isOn(t, pv, "node-b", v1alpha1.PhaseAvailable)
	denied(t, "by the node that has lost it", "sealvol-reports", report("node-a", 6))
	denied(t, "an older anchor", "sealvol-anchors", report("node-b", 4))
	if err := report("node-b", 6)(); err != nil {
		t.Fatal(err)
	}
	isOn(t, pv, "node-b", v1alpha1.PhaseStaged)
	if delivered(t, pv.Name) != kek {
		t.Error("another key")
	}

	// A PersistentVolume that is created again is the same volume, on any node.
	remove(t, release(t, b))
	isOn(t, pv, "", v1alpha1.PhaseAvailable)
	attachedCopy(t, ns, pv, kek)
	remove(t, c, pv, other)
	gone(t, sealed(pv.Name))
}

// release does what the attacher does after it has detached a volume.
func release(t *testing.T, a *storagev1.VolumeAttachment) *storagev1.VolumeAttachment {
	t.Helper()
	if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(a), a); err != nil {
		t.Fatal(err)
	}
	a.Finalizers = nil
	if err := env.Client.Update(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	return a
}

// TestContentOfAny: a content that was created by hand keeps the keys of all volumes while its
// source volume is unknown, and later only the key of its source.
func TestContentOfAny(t *testing.T) {
	start(t, nil, attachments)
	ns := namespace(t)
	c, pv, _ := zonal(t, ns, "data")
	other, otherPV, _ := zonal(t, ns, "other")
	snapshot := "snap-1"
	cont := &snapshotv1.VolumeSnapshotContent{ObjectMeta: metav1.ObjectMeta{Name: "by-hand-" + ns},
		Spec: snapshotv1.VolumeSnapshotContentSpec{Driver: operator.DriverName, DeletionPolicy: snapshotv1.VolumeSnapshotContentRetain,
			Source: snapshotv1.VolumeSnapshotContentSource{SnapshotHandle: &snapshot}, VolumeSnapshotRef: corev1.ObjectReference{Namespace: ns, Name: "by-hand"}}}
	create(t, cont)
	remove(t, c, pv, other, otherPV)
	hasCondition(t, sealed(pv.Name), v1alpha1.VolumeKeyReady, v1alpha1.ReasonKept)
	hasCondition(t, sealed(otherPV.Name), v1alpha1.VolumeKeyReady, v1alpha1.ReasonKept)

	patch := client.MergeFrom(cont.DeepCopy())
	cont.Annotations = map[string]string{v1alpha1.SourceAnnotation: pv.Spec.CSI.VolumeHandle}
	if err := env.Client.Patch(t.Context(), cont, patch); err != nil {
		t.Fatal(err)
	}
	gone(t, sealed(otherPV.Name), keyNamed(ns, otherPV.Name))
	hasCondition(t, sealed(pv.Name), v1alpha1.VolumeKeyReady, v1alpha1.ReasonKept)
	remove(t, cont)
	gone(t, sealed(pv.Name), keyNamed(ns, pv.Name))
}

// TestCopyNotSeen: a volume that is restored from a content created by hand needs the key of its
// origin, even if the operator has not seen its PersistentVolume yet when the content is deleted.
func TestCopyNotSeen(t *testing.T) {
	var behind, looked atomic.Bool
	start(t, func(c client.WithWatch) client.Client {
		return interceptor.NewClient(c, interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
				if _, ok := l.(*corev1.PersistentVolumeList); ok && behind.Load() {
					return nil
				}
				err := c.List(ctx, l, opts...)
				if contents, ok := l.(*snapshotv1.VolumeSnapshotContentList); ok && behind.Load() && err == nil && len(contents.Items) == 0 {
					// The operator looks for users of the key, and no snapshot is left.
					looked.Store(true)
				}
				return err
			},
			Get: func(ctx context.Context, c client.WithWatch, k client.ObjectKey, o client.Object, opts ...client.GetOption) error {
				if _, ok := o.(*corev1.PersistentVolume); ok && behind.Load() {
					return apierrors.NewNotFound(schema.GroupResource{Resource: "persistentvolumes"}, k.Name)
				}
				return c.Get(ctx, k, o, opts...)
			}})
	}, attachments)
	ns := namespace(t)
	c, pv, kek := zonal(t, ns, "data")
	snapshot := "snap-1"
	cont := &snapshotv1.VolumeSnapshotContent{ObjectMeta: metav1.ObjectMeta{Name: "not-seen-" + ns, Annotations: map[string]string{v1alpha1.SourceAnnotation: pv.Spec.CSI.VolumeHandle}},
		Spec: snapshotv1.VolumeSnapshotContentSpec{Driver: operator.DriverName, DeletionPolicy: snapshotv1.VolumeSnapshotContentRetain,
			Source: snapshotv1.VolumeSnapshotContentSource{SnapshotHandle: &snapshot}, VolumeSnapshotRef: corev1.ObjectReference{Namespace: ns, Name: "by-hand"}}}
	create(t, cont)
	remove(t, c, pv)
	hasCondition(t, sealed(pv.Name), v1alpha1.VolumeKeyReady, v1alpha1.ReasonKept)

	behind.Store(true)
	restored := operatortest.Claim(ns, "restored")
	create(t, restored)
	rpv := operatortest.Volume(restored, "", del)
	rpv.Spec.NodeAffinity = nil
	rpv.Spec.CSI.VolumeAttributes = map[string]string{"keyVolume": pv.Spec.CSI.VolumeHandle}
	rpv.Name = "restored-" + ns
	rpv.Spec.CSI.NodeStageSecretRef = &corev1.SecretReference{Namespace: operatortest.Namespace, Name: rpv.Name}
	create(t, rpv)
	remove(t, cont)
	gone(t, cont)
	eventually(t, func() error {
		if !looked.Load() {
			return errors.New("the operator has not seen the deletion")
		}
		return nil
	})
	if err := within(t.Context(), 2*time.Second, func() error {
		sv := sealed(pv.Name)
		if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(sv), sv); err == nil && sv.DeletionTimestamp == nil {
			return errors.New("it stays")
		}
		return nil
	}); err == nil {
		t.Fatal("the SealedVolume of the origin is deleted, and the key with it")
	}
	behind.Store(false)
	patch := client.MergeFrom(rpv.DeepCopy())
	rpv.Labels = map[string]string{"seen": "now"}
	if err := env.Client.Patch(t.Context(), rpv, patch); err != nil {
		t.Fatal(err)
	}
	if delivered(t, rpv.Name) != kek {
		t.Error("another key")
	}
	gone(t, sealed(pv.Name))
	remove(t, restored, rpv)
	gone(t, sealed(rpv.Name), keyNamed(ns, pv.Name))
}
