package operator_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

// clientOf returns a client with a configuration of Env.As.
func clientOf(t *testing.T, account, node string) client.Client {
	t.Helper()
	c, err := env.As(t.Context(), account, node)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, c)
}

func newClient(t *testing.T, c *rest.Config) client.Client {
	t.Helper()
	s, err := operator.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	k, err := client.New(c, client.Options{Scheme: s})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// denied checks that a policy refuses a request. A new policy may take a moment to have an effect.
func denied(t *testing.T, what, policy string, f func() error) {
	t.Helper()
	eventually(t, func() error {
		err := f()
		if err == nil || !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), policy) {
			return fmt.Errorf("%s: want a refusal by %s: %w", what, policy, err)
		}
		return nil
	})
}

// Key Secrets in use and delivery Secrets can be neither deleted nor edited, not even by an
// administrator, unless they are annotated first.
func TestSecretPolicy(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	_, pv, kek := volume(t, ns, "data", del)
	key := keySecretOf(t, keyNamed(ns, pv.Name))
	delivery := secretNamed(pv.Name)
	for _, s := range []*corev1.Secret{key, delivery} {
		denied(t, "delete "+s.Name, "sealvol-secrets", func() error { return env.Client.Delete(t.Context(), s) })
		for what, change := range map[string]func(s *corev1.Secret){
			"labels":     func(s *corev1.Secret) { s.Labels = nil },
			"finalizers": func(s *corev1.Secret) { s.Finalizers = []string{"example.com/other"} },
			"data":       func(s *corev1.Secret) { s.Data["kek"] = []byte("x") },
			"all data":   func(s *corev1.Secret) { s.Data = nil },
			"immutable":  func(s *corev1.Secret) { i := s.Immutable == nil; s.Immutable = &i },
		} {
			if s == key && (strings.Contains(what, "data") || what == "immutable") {
				continue // the API server itself refuses this: the Secret is immutable
			}
			denied(t, what+" of "+s.Name, "sealvol-secrets", func() error {
				x, err := get(t.Context(), s.Namespace, s.Name, &corev1.Secret{})
				if err != nil {
					return err
				}
				change(x)
				return env.Client.Update(t.Context(), x)
			})
		}
		eventually(t, func() error { // other annotations are allowed
			x, err := get(t.Context(), s.Namespace, s.Name, &corev1.Secret{})
			if err != nil {
				return err
			}
			metav1.SetMetaDataAnnotation(&x.ObjectMeta, "example.com/remark", "mine")
			return env.Client.Update(t.Context(), x)
		})
	}
	if delivered(t, pv.Name) != kek {
		t.Error("another key")
	}
	other := secretNamed("other-" + ns) // a Secret of others
	create(t, other)
	remove(t, other)
}

func anchored(sv *v1alpha1.SealedVolume, gen, epoch int64, mac string) {
	sv.Status.Anchor = &v1alpha1.Anchor{Volume: strings.Repeat("1", 36), Instance: strings.Repeat("2", 36), Generation: gen, Epoch: epoch, MAC: strings.Repeat(mac, 64)}
}

// volumeOf creates a SealedVolume of a node, without an operator.
func volumeOf(t *testing.T, node string) *v1alpha1.SealedVolume {
	t.Helper()
	sv := &v1alpha1.SealedVolume{ObjectMeta: metav1.ObjectMeta{GenerateName: "policy-"}, Spec: v1alpha1.SealedVolumeSpec{NodeName: node, VolumeHandle: "h"}}
	create(t, sv)
	return sv
}

// Anchors can be raised. Lowering, replacing or removing one requires a separate verb.
func TestAnchorPolicy(t *testing.T) {
	node := clientOf(t, "node", "node-a")
	sv := volumeOf(t, "node-a")
	update := func(c client.Client, change func()) error {
		if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(sv), sv); err != nil {
			return err
		}
		was := sv.DeepCopy()
		change()
		return c.Status().Patch(t.Context(), sv, client.MergeFrom(was))
	}
	allowed := func(what string, change func()) {
		t.Helper()
		if err := update(node, change); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused := func(what string, change func()) {
		t.Helper()
		denied(t, what, "sealvol-anchors", func() error { return update(node, change) })
	}
	allowed("the first", func() { anchored(sv, 5, 2, "a") })
	allowed("the same", func() { anchored(sv, 5, 2, "a") })
	allowed("a later one", func() { anchored(sv, 6, 2, "b") })
	allowed("of a new key", func() { anchored(sv, 6, 3, "c") })
	refused("lowered", func() { anchored(sv, 5, 3, "a") })
	refused("of an older key", func() { anchored(sv, 7, 2, "a") })
	refused("another of the same generation", func() { anchored(sv, 6, 3, "d") })
	refused("of another volume", func() { anchored(sv, 9, 3, "d"); sv.Status.Anchor.Volume = strings.Repeat("3", 36) })
	refused("of another instance", func() { anchored(sv, 9, 3, "d"); sv.Status.Anchor.Instance = strings.Repeat("3", 36) })
	refused("removed", func() { sv.Status.Anchor = nil })
	refused("removed with all", func() { sv.Status = v1alpha1.SealedVolumeStatus{} })

	// A user with all other rights on SealedVolumes cannot do that either; a user with the verb
	// can.
	for verb, want := range map[string]bool{"override-anchor": true, "update": false} {
		who := rest.CopyConfig(env.Config)
		who.Impersonate = rest.ImpersonationConfig{UserName: "admin-" + verb}
		role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: who.Impersonate.UserName}, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"sealvol.dev"}, Resources: []string{"sealedvolumes", "sealedvolumes/status"}, Verbs: []string{"get", "list", "patch", "update", "delete", verb}}}}
		create(t, role, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: role.Name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
			Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: who.Impersonate.UserName}}})
		c := newClient(t, who)
		lower := func() error { return update(c, func() { anchored(sv, 1, 1, "e") }) }
		if want {
			eventually(t, lower)
			allowed("raised again", func() { anchored(sv, 8, 3, "f") })
			continue
		}
		denied(t, "lowered by an administrator", "sealvol-anchors", lower)
		denied(t, "deleted by an administrator", "sealvol-anchors", func() error { return c.Delete(t.Context(), sv) })
	}
	remove(t, sv) // by a user with all rights
}

// A node can report only on its own volumes, and cannot change what the operator writes. A token
// without a node can write nothing.
func TestReportPolicy(t *testing.T) {
	nodeA, nodeB, nowhere := clientOf(t, "node", "node-a"), clientOf(t, "node", "node-b"), clientOf(t, "node", "")
	sv, unplaced := volumeOf(t, "node-a"), volumeOf(t, "")
	report := func(c client.Client, sv *v1alpha1.SealedVolume, change func(*v1alpha1.SealedVolumeStatus)) func() error {
		return func() error {
			if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(sv), sv); err != nil {
				return err
			}
			was := sv.DeepCopy()
			change(&sv.Status)
			return c.Status().Patch(t.Context(), sv, client.MergeFrom(was))
		}
	}
	here := func(s *v1alpha1.SealedVolumeStatus) { s.Node, s.Health = "node-a", v1alpha1.HealthHealthy }
	denied(t, "by another node", "sealvol-reports", report(nodeB, sv, here))
	denied(t, "without a node", "sealvol-reports", report(nowhere, sv, here))
	denied(t, "of a volume without a node", "sealvol-reports", report(nodeA, unplaced, here))
	denied(t, "of another node", "sealvol-reports", report(nodeA, sv, func(s *v1alpha1.SealedVolumeStatus) { s.Node = "node-b" }))
	denied(t, "the phase", "sealvol-reports", report(nodeA, sv, func(s *v1alpha1.SealedVolumeStatus) { s.Phase = v1alpha1.PhaseDeleted }))
	denied(t, "the key version", "sealvol-reports", report(nodeA, sv, func(s *v1alpha1.SealedVolumeStatus) { s.KeyVersion = 7 }))
	denied(t, "the operator's condition", "sealvol-reports", report(nodeA, sv, func(s *v1alpha1.SealedVolumeStatus) {
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: v1alpha1.VolumeKeyReady, Status: metav1.ConditionTrue, Reason: "Mine"})
	}))
	if err := report(nodeA, sv, here)(); err != nil {
		t.Error(err)
	}
	if err := report(nodeA, sv, func(s *v1alpha1.SealedVolumeStatus) {
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: v1alpha1.VolumeHealthy, Status: metav1.ConditionFalse, Reason: "Sick"})
	})(); err != nil {
		t.Error(err)
	}
	// RBAC gives a node no access to specs, Secrets and keys.
	ctx := t.Context()
	for what, err := range map[string]error{
		"spec":    func() error { sv.Spec.NodeName = "node-b"; return nodeA.Update(ctx, sv) }(),
		"delete":  nodeA.Delete(ctx, sv),
		"secrets": nodeA.List(ctx, &corev1.SecretList{}, client.InNamespace(operatortest.Namespace)),
		"secret":  nodeA.Get(ctx, client.ObjectKey{Namespace: operatortest.Namespace, Name: "any"}, &corev1.Secret{}),
		"keys":    nodeA.List(ctx, &v1alpha1.VolumeKeyList{}),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("a node may %s: %v", what, err)
		}
	}
}

// The operator may access Secrets in its own namespace only.
func TestOperatorRights(t *testing.T) {
	c := clientOf(t, "operator", "")
	ns := namespace(t)
	ctx := t.Context()
	if err := c.List(ctx, &corev1.SecretList{}, client.InNamespace(operatortest.Namespace)); err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{
		"list a tenant's Secrets": c.List(ctx, &corev1.SecretList{}, client.InNamespace(ns)),
		"list all Secrets":        c.List(ctx, &corev1.SecretList{}),
		"read a tenant's Secret":  c.Get(ctx, client.ObjectKey{Namespace: ns, Name: "any"}, &corev1.Secret{}),
		"make one":                c.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "any"}}),
		"make a claim":            c.Create(ctx, operatortest.Claim(ns, "any")),
		"list pods":               c.List(ctx, &corev1.PodList{}),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("the operator may %s: %v", what, err)
		}
	}
}

// TestValidation: the CRDs refuse these changes.
func TestValidation(t *testing.T) {
	ns := namespace(t)
	vk := keyNamed(ns, "key")
	vk.Spec.Imported = &v1alpha1.ImportedKey{SecretName: "s"}
	vk.Spec.ClaimRef = &v1alpha1.KeyClaim{Name: "c", UID: "u"}
	sv := sealed("validated-" + ns)
	sv.Spec.VolumeHandle = "h"
	sv.Spec.Key = &v1alpha1.VolumeKeyRef{Namespace: ns, Name: "key", UID: "u"}
	create(t, vk, sv)
	if vk.Spec.DeletionPolicy != v1alpha1.DeletionDelete || vk.Spec.Imported.Key != "kek" {
		t.Errorf("defaults: %+v", vk.Spec)
	}
	refused := func(what, text string, o client.Object, change func()) {
		t.Helper()
		if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			t.Fatal(err)
		}
		change()
		if err := env.Client.Update(t.Context(), o); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("import changed", "cannot be changed", vk, func() { vk.Spec.Imported.SecretName = "x" })
	refused("import removed", "cannot be added or removed", vk, func() { vk.Spec.Imported = nil })
	refused("another claim", "cannot be changed", vk, func() { vk.Spec.ClaimRef.UID = "x" })
	refused("no claim", "cannot be added or removed", vk, func() { vk.Spec.ClaimRef = nil })
	refused("unknown policy", "Unsupported value", vk, func() { vk.Spec.DeletionPolicy = "Burn" })
	refused("another handle", "cannot be changed", sv, func() { sv.Spec.VolumeHandle = "x" })
	refused("no key", "cannot be removed", sv, func() { sv.Spec.Key = nil })
	if err := update(t.Context(), sv, func() { sv.Spec.Key.UID = "v" }); err != nil {
		t.Error("a key that was never created:", err)
	}
	if err := update(t.Context(), sv, func() { sv.Spec.Key.SecretName = "s" }); err != nil {
		t.Error(err)
	}
	refused("another key", "cannot be replaced", sv, func() { sv.Spec.Key.UID = "x" })
	bad := sealed("bad-" + ns)
	create(t, bad)
	anchored(bad, 0, 1, "a")
	if err := env.Client.Status().Update(t.Context(), bad); !apierrors.IsInvalid(err) {
		t.Error("generation 0:", err)
	}
	remove(t, vk, sv, bad)
}

func update(ctx context.Context, o client.Object, change func()) error {
	if err := env.Client.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
		return err
	}
	change()
	return env.Client.Update(ctx, o)
}

// A volume that claims to be a copy of one on another node does not get the key of that one.
// Neither does a status that names the Secret of another key.
func TestForeignKeys(t *testing.T) {
	start(t, nil)
	ns, ns2 := namespace(t), namespace(t)
	_, pv, _ := volume(t, ns, "victim", del)
	thief := operatortest.Claim(ns2, "thief")
	create(t, thief)
	stolen := operatortest.Volume(thief, "node-b", del)
	stolen.Name = "stolen-" + ns2
	stolen.Spec.CSI.NodeStageSecretRef = &corev1.SecretReference{Namespace: operatortest.Namespace, Name: stolen.Name}
	stolen.Spec.CSI.VolumeAttributes = map[string]string{"keyVolume": pv.Spec.CSI.VolumeHandle}
	create(t, stolen)
	hasCondition(t, sealed(stolen.Name), v1alpha1.VolumeKeyReady, v1alpha1.ReasonSourceUnknown)

	key := keySecretOf(t, keyNamed(ns, pv.Name))
	vk := keyNamed(ns2, "mine")
	create(t, vk)
	hasCondition(t, vk, v1alpha1.KeyReady, v1alpha1.ReasonAvailable)
	eventually(t, func() error {
		if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(vk), vk); err != nil {
			return err
		}
		vk.Status.Versions[0].SecretName = key.Name
		vk.Status.Versions[0].Fingerprint = keyNamedStatus(t, ns, pv.Name)
		return env.Client.Status().Update(t.Context(), vk)
	})
	hasCondition(t, vk, v1alpha1.KeyReady, v1alpha1.ReasonSecretAltered)
	c := operatortest.Claim(ns2, "with-it")
	c.Annotations = map[string]string{v1alpha1.KeyAnnotation: "mine"}
	create(t, c)
	hasCondition(t, sealed("pvc-"+string(c.UID)), v1alpha1.VolumeKeyReady, v1alpha1.ReasonSecretAltered)
	if err := env.Client.Get(t.Context(), client.ObjectKey{Namespace: operatortest.Namespace, Name: "pvc-" + string(c.UID)}, &corev1.Secret{}); !apierrors.IsNotFound(err) {
		t.Error("a key was delivered:", err)
	}
}

// keyNamedStatus returns the fingerprint of a key.
func keyNamedStatus(t *testing.T, ns, name string) string {
	t.Helper()
	vk, err := get(t.Context(), ns, name, &v1alpha1.VolumeKey{})
	if err != nil {
		t.Fatal(err)
	}
	return vk.Status.Versions[0].Fingerprint
}
