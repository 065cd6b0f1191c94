package operator_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Importing a key needs the right to read its Secret. Two volumes can share the key.
func TestImportedKey(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	theirs := strings.Repeat("5a", 31) + "a5"
	told.add(theirs)
	create(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "mine"}, StringData: map[string]string{"key": theirs + "\n"}})
	vk := keyNamed(ns, "shared")
	vk.Spec.Imported = &v1alpha1.ImportedKey{SecretName: "mine", Key: "key"}
	vk.Spec.DeletionPolicy = v1alpha1.DeletionRetain
	c1, c2 := operatortest.Claim(ns, "one"), operatortest.Claim(ns, "two")
	c1.Annotations = map[string]string{v1alpha1.KeyAnnotation: "shared"}
	c2.Annotations = c1.Annotations
	create(t, c1)
	hasEvent(t, c1, corev1.EventTypeWarning, v1alpha1.ReasonKeyNotFound)
	create(t, vk, c2)
	if msg := hasCondition(t, vk, v1alpha1.KeyReady, v1alpha1.ReasonImportForbidden); !strings.Contains(msg, "keyImport.namespaces") {
		t.Error(msg)
	}
	hasEvent(t, c1, corev1.EventTypeWarning, v1alpha1.ReasonImportForbidden)
	create(t, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "import"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "sealvol-key-import"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: operatortest.Namespace, Name: "sealvol-operator"}}})
	var pvs []client.Object
	for _, c := range []*corev1.PersistentVolumeClaim{c1, c2} {
		prepared(t, "pvc-"+string(c.UID))
		pv := operatortest.Volume(c, "node-a", del)
		bind(t, c, pv)
		if delivered(t, pv.Name) != theirs {
			t.Error("another key")
		}
		pvs = append(pvs, pv)
	}
	hasCondition(t, vk, v1alpha1.KeyReady, v1alpha1.ReasonAvailable)
	eventually(t, func() error {
		err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(vk), vk)
		if err == nil && (vk.Status.Volumes != 2 || len(vk.Status.UsedBy) != 2) {
			err = fmt.Errorf("%+v", vk.Status)
		}
		return err
	})
	key := keySecretOf(t, vk)
	remove(t, c1, c2)
	remove(t, pvs...)
	gone(t, sealed("pvc-"+string(c1.UID)), sealed("pvc-"+string(c2.UID)))
	if _, err := get(t.Context(), ns, "shared", &v1alpha1.VolumeKey{}); err != nil {
		t.Fatal("a VolumeKey that was created by hand was deleted with its volumes:", err)
	}
	remove(t, vk)
	gone(t, vk)
	eventually(t, func() error { // Retain: the Secret stays, without the finalizer
		err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(key), key)
		if err == nil && (len(key.Finalizers) > 0 || key.DeletionTimestamp != nil || key.Labels[v1alpha1.KeptLabel] != ns) {
			err = errors.New("the Secret still has the finalizer")
		}
		return err
	})
	remove(t, key)
	gone(t, key)
}

// A malformed import is reported, and is retried until it succeeds.
func TestMalformedImport(t *testing.T) {
	start(t, nil)
	ns := operatortest.Namespace // the operator may read Secrets here
	vk := keyNamed(ns, "broken")
	vk.Spec.Imported = &v1alpha1.ImportedKey{SecretName: "broken"}
	create(t, vk)
	hasCondition(t, vk, v1alpha1.KeyReady, v1alpha1.ReasonImportMissing)
	s := secretNamed("broken")
	s.StringData = map[string]string{"kek": "too short"}
	create(t, s)
	if msg := hasCondition(t, vk, v1alpha1.KeyReady, v1alpha1.ReasonImportMalformed); strings.Contains(msg, "too short") {
		t.Error("the message quotes the Secret:", msg)
	}
	remove(t, vk, s)
	gone(t, vk)
}
