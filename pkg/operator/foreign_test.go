package operator_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

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
