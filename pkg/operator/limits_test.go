package operator_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

// A namespace cannot exceed its limit of keys. Keys whose VolumeKeys are gone count, and are listed
// in the message.
func TestTooManyKeys(t *testing.T) {
	start(t, nil, func(_ *ctrl.Options, o *operator.Options) { o.MaxKeys = 3 })
	ns, other := namespace(t), namespace(t)
	var kept []*corev1.Secret
	for i := range 3 {
		vk := keyNamed(ns, fmt.Sprintf("key-%d", i))
		vk.Spec.DeletionPolicy = v1alpha1.DeletionRetain
		create(t, vk)
		kept = append(kept, keySecretOf(t, vk))
		if i < 2 {
			remove(t, vk)
			gone(t, vk)
		}
	}
	listed := func(n int) {
		t.Helper()
		eventually(t, func() error {
			var list corev1.SecretList
			err := env.Client.List(t.Context(), &list, client.InNamespace(operatortest.Namespace), client.MatchingLabels{v1alpha1.KeptLabel: ns})
			if err == nil && len(list.Items) != n {
				err = fmt.Errorf("%d are listed, want %d", len(list.Items), n)
			}
			return err
		})
	}
	listed(2)
	fourth := keyNamed(ns, "fourth")
	create(t, fourth)
	c := operatortest.Claim(ns, "data")
	create(t, c)
	msg := hasCondition(t, fourth, v1alpha1.KeyReady, v1alpha1.ReasonTooMany)
	for _, want := range []string{"namespace " + ns, "3 keys", kept[0].Name, kept[1].Name, "get secret -l " + v1alpha1.KeptLabel + "=" + ns, "maxKeysPerNamespace"} {
		if !strings.Contains(msg, want) {
			t.Errorf("%q is not in %q", want, msg)
		}
	}
	if strings.Contains(msg, kept[2].Name) {
		t.Error("a key in use is listed:", msg)
	}
	hasEvent(t, fourth, corev1.EventTypeWarning, v1alpha1.ReasonTooMany)
	hasEvent(t, c, corev1.EventTypeWarning, v1alpha1.ReasonTooMany) // where users look
	// Other namespaces are not affected.
	volume(t, other, "data", del)

	// When one key is deleted, a waiting VolumeKey gets its place; later the claim does.
	remove(t, kept[0])
	eventually(t, func() error {
		n := 0
		for _, vk := range []*v1alpha1.VolumeKey{fourth, keyNamed(ns, "pvc-"+string(c.UID))} {
			if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(vk), vk); err != nil {
				return err
			}
			n += len(vk.Status.Versions)
		}
		if n != 1 {
			return fmt.Errorf("%d keys were created, want one", n)
		}
		return nil
	})
	remove(t, kept[1])
	hasCondition(t, fourth, v1alpha1.KeyReady, v1alpha1.ReasonAvailable)
	prepared(t, "pvc-"+string(c.UID))
	listed(0)
	remove(t, c, fourth)
}

// A key Secret whose VolumeKey disappeared without being released is labelled. When the VolumeKey
// is back, the label is removed.
func TestOrphanedKeyIsListed(t *testing.T) {
	stop := start(t, nil)
	ns := namespace(t)
	vk := keyNamed(ns, "key")
	create(t, vk)
	key := keySecretOf(t, vk)
	stop()
	if err := env.Client.Delete(t.Context(), vk); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { // by a user with the verb
		return client.IgnoreNotFound(update(t.Context(), vk, func() { vk.Finalizers = nil }))
	})
	start(t, nil)
	eventually(t, func() error {
		err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(key), key)
		if err == nil && key.Labels[v1alpha1.KeptLabel] != ns {
			err = fmt.Errorf("labels %v", key.Labels)
		}
		return err
	})
	if len(key.Finalizers) != 1 || key.DeletionTimestamp != nil {
		t.Error("the Secret counts as released:", key.ObjectMeta)
	}
	destroy(t, key)
}

// A tenant with all rights on VolumeKeys in a namespace cannot leave their Secrets behind.
func TestKeyFinalizerPolicy(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	as := func(name string, cluster ...rbacv1.PolicyRule) client.Client {
		who := rest.CopyConfig(env.Config)
		who.Impersonate = rest.ImpersonationConfig{UserName: name + "-" + ns}
		subjects := []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: who.Impersonate.UserName}}
		create(t, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{"sealvol.dev"}, Resources: []string{"*"}, Verbs: []string{"*"}}}},
			&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name}, Subjects: subjects},
			&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name + "-" + ns}, Rules: cluster},
			&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name + "-" + ns}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name + "-" + ns}, Subjects: subjects})
		return newClient(t, who)
	}
	tenant, admin := as("tenant"), as("admin", rbacv1.PolicyRule{APIGroups: []string{"sealvol.dev"}, Resources: []string{"volumekeys"}, Verbs: []string{v1alpha1.ReleaseVerb}})
	vk := keyNamed(ns, "key")
	eventually(t, func() error { return tenant.Create(t.Context(), vk) })
	key := keySecretOf(t, vk)
	strips := func(c client.Client) func() error {
		return func() error {
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(vk), vk); err != nil {
				return client.IgnoreNotFound(err)
			}
			vk.Finalizers = []string{"example.com/mine"}
			return c.Update(t.Context(), vk)
		}
	}
	denied(t, "by a tenant", "sealvol-keys", strips(tenant))
	eventually(t, func() error { // the tenant may change everything else
		if err := tenant.Get(t.Context(), client.ObjectKeyFromObject(vk), vk); err != nil {
			return err
		}
		vk.Labels, vk.Spec.DeletionPolicy = map[string]string{"mine": "yes"}, v1alpha1.DeletionDelete
		return tenant.Update(t.Context(), vk)
	})
	eventually(t, strips(admin))
	eventually(t, func() error { return update(t.Context(), vk, func() { vk.Finalizers = nil }) })
	hasFinalizer := func() error {
		err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(vk), vk)
		if err == nil && len(vk.Finalizers) == 0 {
			err = errStays
		}
		return err
	}
	eventually(t, hasFinalizer) // the finalizer is back
	if err := tenant.Delete(t.Context(), vk); err != nil {
		t.Fatal(err)
	}
	gone(t, vk, key)
}

// A PersistentVolume with the name of a key Secret is refused. The key Secret is not written for
// it, and is not deleted with it.
func TestNamedAsKey(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	_, pv, _ := volume(t, ns, "data", del)
	key := keySecretOf(t, keyNamed(ns, pv.Name))
	c := operatortest.Claim(ns, "other")
	c.Annotations = map[string]string{v1alpha1.KeyAnnotation: key.Name}
	create(t, keyNamed(ns, key.Name), c) // a VolumeKey may have such a name
	prepared(t, "pvc-"+string(c.UID))
	same := again(c, key.Name, pv)
	same.Spec.PersistentVolumeReclaimPolicy = del
	same.Spec.CSI.VolumeAttributes = map[string]string{"keyVolume": pv.Spec.CSI.VolumeHandle}
	same.Finalizers = []string{v1alpha1.DeliveryFinalizer}
	bind(t, c, same)
	sv := sealed(key.Name)
	if msg := hasCondition(t, sv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonReserved); !strings.Contains(msg, "another name") {
		t.Error(msg)
	}
	hasEvent(t, c, corev1.EventTypeWarning, v1alpha1.ReasonReserved)
	unchanged := func() {
		t.Helper()
		now, err := get(t.Context(), key.Namespace, key.Name, &corev1.Secret{})
		if err != nil || now.ResourceVersion != key.ResourceVersion {
			t.Fatalf("the key Secret was written: %v %+v", err, now.ObjectMeta)
		}
	}
	unchanged()
	// Nothing that makes the operator look at the PersistentVolume changes the key Secret.
	for i := range 20 {
		eventually(t, func() error {
			x := same.DeepCopy()
			return update(t.Context(), x, func() { x.Labels = map[string]string{"n": fmt.Sprint(i)} })
		})
	}
	if err := within(t.Context(), time.Second, func() error {
		now, err := get(t.Context(), key.Namespace, key.Name, &corev1.Secret{})
		if err == nil && now.ResourceVersion == key.ResourceVersion {
			err = errStays
		}
		return client.IgnoreNotFound(err)
	}); err == nil {
		t.Error("the key Secret was written")
	}
	remove(t, c, same)
	gone(t, same, sv)
	unchanged()
}
