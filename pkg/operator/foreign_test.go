package operator_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

// grant shares the key of a volume with a namespace, as an administrator does.
func grant(t *testing.T, volume, namespace string) {
	t.Helper()
	eventually(t, func() error {
		sv := sealed(volume)
		return update(t.Context(), sv, func() { metav1.SetMetaDataAnnotation(&sv.ObjectMeta, v1alpha1.GrantAnnotation, namespace) })
	})
}

// Key Secrets that exist before their VolumeKeys and volumes are not deleted as unused. This
// happens when a backup is half restored, or when the CRDs were deleted and created again.
func TestKeyRestoredFirst(t *testing.T) {
	uid := "11111111-2222-3333-4444-555555555555"
	s := secretNamed("volumekey-" + uid + "-v1")
	s.Labels = map[string]string{v1alpha1.RoleLabel: v1alpha1.RoleKey, v1alpha1.KeyUIDLabel: uid}
	s.Annotations = map[string]string{v1alpha1.OwnerAnnotation: "shop/data", v1alpha1.PolicyAnnotation: "Delete", v1alpha1.ReleasedAnnotation: "of what was restored"}
	s.Finalizers = []string{v1alpha1.KeyFinalizer}
	s.StringData = map[string]string{v1alpha1.SecretKEK: fmt.Sprintf("%064d", 7)}
	create(t, s)
	start(t, nil)
	ns := namespace(t)
	c, pv, _ := volume(t, ns, "data", del)
	vk := keyNamed(ns, pv.Name)
	key := keySecretOf(t, vk)
	remove(t, c, pv)
	gone(t, sealed(pv.Name), vk, key) // released Secrets are deleted
	if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(s), s); err != nil || s.DeletionTimestamp != nil {
		t.Fatal("the restored key:", err, s.DeletionTimestamp)
	}
	metav1.SetMetaDataAnnotation(&s.ObjectMeta, v1alpha1.AllowAnnotation, s.Name)
	if err := env.Client.Update(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := env.Client.Delete(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	gone(t, s) // deleted by an administrator
}

// A copy of a copy gets the key of its source, even if the first volume of the chain is gone. So
// does a volume that is restored from a snapshot of which only a content created by hand is known.
func TestChainOfCopies(t *testing.T) {
	start(t, nil)
	ns, ns2 := namespace(t), namespace(t)
	c, pv, kek := volume(t, ns, "data", del)
	copyOf := func(ns, name, node string, from *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) {
		x := operatortest.Claim(ns, name)
		if from != nil {
			x.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: from.Name}
		}
		create(t, x)
		v := operatortest.Volume(x, node, del)
		v.Spec.CSI.VolumeAttributes = map[string]string{"keyVolume": pv.Spec.CSI.VolumeHandle}
		return x, v
	}
	first, fpv := copyOf(ns, "first", "node-a", c)
	prepared(t, fpv.Name)
	bind(t, first, fpv)
	if delivered(t, fpv.Name) != kek {
		t.Error("another key")
	}
	eventually(t, func() error {
		sv, err := get(t.Context(), "", fpv.Name, &v1alpha1.SealedVolume{})
		if err == nil && sv.Spec.KeyVolume != pv.Spec.CSI.VolumeHandle {
			err = fmt.Errorf("key volume %q", sv.Spec.KeyVolume)
		}
		return err
	})
	remove(t, c, pv)
	gone(t, sealed(pv.Name))

	// Only a snapshot of the first copy is left, with a content that was created by hand and
	// claimed by the node.
	snapshot := "snap"
	cont := &snapshotv1.VolumeSnapshotContent{ObjectMeta: metav1.ObjectMeta{Name: "by-hand-" + ns, Annotations: map[string]string{v1alpha1.SourceAnnotation: fpv.Spec.CSI.VolumeHandle}},
		Spec: snapshotv1.VolumeSnapshotContentSpec{Driver: "csi.sealvol.dev", DeletionPolicy: snapshotv1.VolumeSnapshotContentRetain,
			Source:            snapshotv1.VolumeSnapshotContentSource{SnapshotHandle: &snapshot},
			VolumeSnapshotRef: corev1.ObjectReference{Namespace: ns2, Name: "snap"}}}
	create(t, cont)
	remove(t, first, fpv)
	hasCondition(t, sealed(fpv.Name), v1alpha1.VolumeKeyReady, v1alpha1.ReasonKept)

	restore := func(name, node string) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) {
		x, v := copyOf(ns2, name, node, nil)
		v.Name = name + "-" + ns2 // of a class that leaves the name to the PersistentVolume
		v.Spec.CSI.NodeStageSecretRef = &corev1.SecretReference{Namespace: operatortest.Namespace, Name: v.Name}
		create(t, v)
		return x, v
	}
	x, v := restore("restored", "node-a")
	if msg := hasCondition(t, sealed(v.Name), v1alpha1.VolumeKeyReady, v1alpha1.ReasonNotGranted); !strings.Contains(msg, "sealedvolume "+fpv.Name) || strings.Contains(msg, ns+"/") {
		t.Error(msg)
	}
	undelivered(t, v.Name)
	grant(t, fpv.Name, "somebody, "+ns2)
	if delivered(t, v.Name) != kek {
		t.Error("another key")
	}
	y, w := restore("elsewhere", "node-b")
	hasCondition(t, sealed(w.Name), v1alpha1.VolumeKeyReady, v1alpha1.ReasonSourceUnknown)
	remove(t, y, w)
	remove(t, cont)
	gone(t, sealed(fpv.Name))
	remove(t, x, v)
	gone(t, sealed(v.Name), keyNamed(ns, pv.Name))
}

// A claim that names the volume of another claim, and a copy of such a claim, get no key, and do
// not keep the key of that volume.
func TestClaimNamesForeignVolume(t *testing.T) {
	start(t, nil)
	ns, ns2 := namespace(t), namespace(t)
	c, pv, _ := volume(t, ns, "victim", retain)
	names := operatortest.Claim(ns2, "names")
	names.Spec.VolumeName = pv.Name
	clone := operatortest.Claim(ns2, "clone")
	clone.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "names"}
	create(t, names, clone)
	csv := sealed("pvc-" + string(clone.UID))
	hasCondition(t, csv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonKeyNotReady)
	noKey := func() {
		t.Helper()
		if csv.Spec.Key != nil {
			t.Error("the copy has a key", csv.Spec.Key)
		}
		if err := env.Client.Get(t.Context(), client.ObjectKey{Namespace: operatortest.Namespace, Name: csv.Name}, &corev1.Secret{}); !apierrors.IsNotFound(err) {
			t.Error("a key was delivered:", err)
		}
	}
	noKey()

	// The same, when the claim and the PersistentVolume of the volume are gone.
	remove(t, c, pv)
	sv := sealed(pv.Name)
	eventually(t, func() error {
		err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(sv), sv)
		if err == nil && sv.Status.Phase != v1alpha1.PhaseRetained {
			err = fmt.Errorf("phase %s", sv.Status.Phase)
		}
		return err
	})
	if sv.Spec.ClaimRef == nil || sv.Spec.ClaimRef.UID != string(c.UID) {
		t.Error("the SealedVolume names the claim of another volume:", sv.Spec.ClaimRef)
	}
	hasCondition(t, csv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonKeyNotReady)
	noKey()
	remove(t, sv)
	gone(t, sv, keyNamed(ns, pv.Name))
	remove(t, names, clone)
	gone(t, csv)
}

// A volume whose reclaim policy was changed to Retain is retained, even if its PersistentVolume is
// deleted before the operator has recorded that.
func TestRetainedAtLast(t *testing.T) {
	var broken atomic.Value // the volume whose SealedVolume cannot be written
	broken.Store("")
	start(t, func(c client.WithWatch) client.Client {
		return interceptor.NewClient(c, interceptor.Funcs{Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			if _, ok := o.(*v1alpha1.SealedVolume); ok && broken.Load() == o.GetName() {
				return errors.New("not now")
			}
			return c.Patch(ctx, o, p, opts...)
		}})
	})
	ns := namespace(t)
	c, pv, _ := volume(t, ns, "data", del)
	sv, vk := sealed(pv.Name), keyNamed(ns, pv.Name)
	key := keySecretOf(t, vk)
	broken.Store(pv.Name)
	if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(pv), pv); err != nil {
		t.Fatal(err)
	}
	patch := client.MergeFrom(pv.DeepCopy())
	pv.Spec.PersistentVolumeReclaimPolicy = retain
	if err := env.Client.Patch(t.Context(), pv, patch); err != nil {
		t.Fatal(err)
	}
	remove(t, c, pv)
	gone(t, c)
	other := operatortest.Claim(ns, "other") // by then, the operator has seen the deletion, too
	create(t, other)
	prepared(t, "pvc-"+string(other.UID))
	if _, err := get(t.Context(), "", pv.Name, &corev1.PersistentVolume{}); err != nil {
		t.Error("the PersistentVolume was gone before its reclaim policy was recorded:", err)
	}
	broken.Store("")
	gone(t, pv)
	hasCondition(t, sv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonKept)
	if sv.Status.Phase != v1alpha1.PhaseRetained {
		t.Error(sv.Status.Phase)
	}
	remove(t, other, sv)
	gone(t, sv, vk, key)
}
