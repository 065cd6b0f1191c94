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

// grant has a namespace share a volume's key, as an administrator does.
func grant(t *testing.T, volume, namespace string) {
	t.Helper()
	eventually(t, func() error {
		sv := sealed(volume)
		return update(t.Context(), sv, func() { metav1.SetMetaDataAnnotation(&sv.ObjectMeta, v1alpha1.GrantAnnotation, namespace) })
	})
}

// Key Secrets that are there before their VolumeKey and volumes, as in a backup that is half restored or after the definitions were removed and made again,
// are not taken for what nobody needs.
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
	gone(t, sealed(pv.Name), vk, key) // what was given up goes
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
	gone(t, s) // by who means it
}

// A copy of a copy, of whose beginning nothing is left, has the key of what it was made of; so has what is restored from a snapshot that is only known from a content
// made by hand.
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

	// A snapshot of the first copy, under a content made by hand, as the node has claimed it, is all that is left.
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
		v.Name = name + "-" + ns2 // of a class that leaves it to the PersistentVolume
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

// A claim that names another's volume, and a copy of such a claim, come by no key, and do not keep the other's.
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

	// Also when the volume's own claim and PersistentVolume have gone.
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
		t.Error("the volume is said to be of another's claim:", sv.Spec.ClaimRef)
	}
	hasCondition(t, csv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonKeyNotReady)
	noKey()
	remove(t, sv)
	gone(t, sv, keyNamed(ns, pv.Name))
	remove(t, names, clone)
	gone(t, csv)
}

// A volume that was to be retained at last is retained, also if its PersistentVolume has gone before that could be noted.
func TestRetainedAtLast(t *testing.T) {
	var broken atomic.Value // the volume of which nothing can be noted
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
	other := operatortest.Claim(ns, "other") // by then the operator has seen that, too
	create(t, other)
	prepared(t, "pvc-"+string(other.UID))
	if _, err := get(t.Context(), "", pv.Name, &corev1.PersistentVolume{}); err != nil {
		t.Error("the PersistentVolume went before what it said was noted:", err)
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
