package operator_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

const (
	del    = corev1.PersistentVolumeReclaimDelete
	retain = corev1.PersistentVolumeReclaimRetain
)

func keyNamed(ns, name string) *v1alpha1.VolumeKey {
	return &v1alpha1.VolumeKey{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
}

// keySecretOf waits for a key and returns its Secret.
func keySecretOf(t *testing.T, vk *v1alpha1.VolumeKey) *corev1.Secret {
	t.Helper()
	hasCondition(t, vk, v1alpha1.KeyReady, v1alpha1.ReasonAvailable)
	s, err := get(t.Context(), operatortest.Namespace, vk.Status.Versions[0].SecretName, &corev1.Secret{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// destroy deletes a Secret in spite of its protection, as an administrator can. It deletes the
// Secret first and then removes its finalizer: the operator adds a missing finalizer again, but not
// on an object that is being deleted.
func destroy(t *testing.T, s *corev1.Secret) {
	t.Helper()
	eventually(t, func() error {
		if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(s), s); err != nil {
			return client.IgnoreNotFound(err)
		}
		if s.DeletionTimestamp != nil {
			s.Finalizers = nil
			return client.IgnoreNotFound(env.Client.Update(t.Context(), s))
		}
		metav1.SetMetaDataAnnotation(&s.ObjectMeta, v1alpha1.AllowAnnotation, s.Name)
		if err := env.Client.Update(t.Context(), s); err != nil {
			return err
		}
		if err := env.Client.Delete(t.Context(), s); err != nil {
			return err
		}
		return errStays
	})
}

// backup returns a Secret as users back it up.
func backup(s *corev1.Secret) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name}, Type: s.Type, Data: s.DeepCopy().Data}
}

// A claim gets its key before it has a volume. When claim and volume are deleted, everything is
// deleted.
func TestClaim(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	c, pv, kek := volume(t, ns, "data", del)
	vk := keyNamed(ns, pv.Name)
	key := keySecretOf(t, vk)
	sv := sealed(pv.Name)
	hasCondition(t, sv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonDelivered)
	hasEvent(t, c, corev1.EventTypeNormal, v1alpha1.ReasonDelivered)
	if string(key.Data["kek"]) != kek || key.Immutable == nil || !*key.Immutable {
		t.Fatal("the delivered key differs from the key Secret")
	}
	if f := vk.Status.Versions[0].Fingerprint; f == "" || f != sv.Spec.Key.Fingerprint || sv.Status.KeyVersion != 1 {
		t.Errorf("fingerprints %q and %+v", f, sv.Spec.Key)
	}
	remove(t, c, pv)
	gone(t, secretNamed(pv.Name), sv, vk, key)
}

// A claim that is deleted before it has a volume leaves nothing behind. A claim of another class,
// or one with another kind of data source, gets nothing.
func TestPendingClaims(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	create(t, operatortest.ClassOf("by-hand-"+ns, del))
	other := operatortest.Claim(ns, "other")
	other.Spec.StorageClassName = new(string)
	c := operatortest.Claim(ns, "data")
	create(t, other, c)
	prepared(t, "pvc-"+string(c.UID))
	vk := keyNamed(ns, "pvc-"+string(c.UID))
	key := keySecretOf(t, vk)
	remove(t, c)
	gone(t, sealed(vk.Name), secretNamed(vk.Name), vk, key)
	if _, err := get(t.Context(), "", "pvc-"+string(other.UID), &v1alpha1.SealedVolume{}); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("a claim of a foreign class: %v", err)
	}
	// The claim is bound to an existing volume, so what was prepared for it is deleted.
	c = operatortest.Claim(ns, "static")
	create(t, c)
	prepared(t, "pvc-"+string(c.UID))
	kek := string(keySecretOf(t, keyNamed(ns, "pvc-"+string(c.UID))).Data["kek"])
	pv := operatortest.Volume(c, "node-a", del)
	pv.Name = "static-" + ns
	ref := &corev1.SecretReference{Namespace: operatortest.Namespace, Name: pv.Name}
	pv.Spec.CSI.NodeStageSecretRef = ref
	bind(t, c, pv)
	if again := delivered(t, pv.Name); again != kek {
		t.Error("the claim's key was created twice")
	}
	gone(t, sealed("pvc-"+string(c.UID)), secretNamed("pvc-"+string(c.UID)))
	remove(t, c, pv)
	gone(t, sealed(pv.Name), secretNamed(pv.Name), keyNamed(ns, "pvc-"+string(c.UID)))
}

// A lost or exchanged key Secret is reported and never created again. When it is restored, the key
// is ready again.
func TestLostKey(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	c, pv, kek := volume(t, ns, "data", del)
	vk, sv := keyNamed(ns, pv.Name), sealed(pv.Name)
	key := keySecretOf(t, vk)
	saved := backup(key)

	destroy(t, key)
	for _, o := range []struct {
		obj  client.Object
		kind string
	}{{vk, v1alpha1.KeyReady}, {sv, v1alpha1.VolumeKeyReady}} {
		if msg := hasCondition(t, o.obj, o.kind, v1alpha1.ReasonSecretMissing); !strings.Contains(msg, saved.Name) || !strings.Contains(msg, "Restore it from a backup") {
			t.Errorf("%T: %s", o.obj, msg)
		}
	}
	for _, o := range []client.Object{vk, c} {
		if note := hasEvent(t, o, corev1.EventTypeWarning, v1alpha1.ReasonSecretMissing); !strings.Contains(note, saved.Name) {
			t.Error(note)
		}
	}

	wrong := backup(saved)
	wrong.Data["kek"] = []byte(strings.Repeat("ab", 32))
	create(t, wrong)
	hasCondition(t, vk, v1alpha1.KeyReady, v1alpha1.ReasonSecretAltered)
	hasCondition(t, sv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonSecretAltered)
	if delivered(t, pv.Name) != kek {
		t.Error("a wrong key was delivered")
	}
	destroy(t, wrong)

	create(t, saved)
	hasCondition(t, vk, v1alpha1.KeyReady, v1alpha1.ReasonAvailable)
	hasCondition(t, sv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonDelivered)
	eventually(t, func() error { // the finalizer is back
		s, err := get(t.Context(), saved.Namespace, saved.Name, &corev1.Secret{})
		if err == nil && (len(s.Finalizers) != 1 || s.Labels[v1alpha1.RoleLabel] != v1alpha1.RoleKey) {
			err = fmt.Errorf("%v %v", s.Finalizers, s.Labels)
		}
		return err
	})
	remove(t, c, pv)
	gone(t, sv, vk, secretNamed(pv.Name), secretNamed(saved.Name))
}

// The deletion policy at the time of the deletion decides what happens to the Secret of a key.
func TestPolicyChanged(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	vk := keyNamed(ns, "key")
	vk.Spec.DeletionPolicy = v1alpha1.DeletionRetain
	create(t, vk)
	key := keySecretOf(t, vk)
	eventually(t, func() error {
		return update(t.Context(), vk, func() { vk.Spec.DeletionPolicy = v1alpha1.DeletionDelete })
	})
	eventually(t, func() error {
		s, err := get(t.Context(), key.Namespace, key.Name, &corev1.Secret{})
		if err == nil && s.Annotations[v1alpha1.PolicyAnnotation] != "Delete" {
			err = errStays
		}
		return err
	})
	remove(t, vk)
	gone(t, vk, key)
}

// The status of a key may be lost, for example after a restore from a backup. If its Secret exists,
// the operator finds it. If not, it creates none.
func TestLostStatus(t *testing.T) {
	stop := start(t, nil)
	ns := namespace(t)
	_, pv, kek := volume(t, ns, "data", del)
	vk := keyNamed(ns, pv.Name)
	key := keySecretOf(t, vk)
	forget := func() {
		t.Helper()
		eventually(t, func() error {
			if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(vk), vk); err != nil {
				return err
			}
			vk.Status = v1alpha1.VolumeKeyStatus{}
			return env.Client.Status().Update(t.Context(), vk)
		})
	}
	forget()
	if again := keySecretOf(t, vk); again.UID != key.UID {
		t.Error("another Secret")
	}
	stop()
	forget()
	saved := backup(key)
	destroy(t, key)
	start(t, nil)
	hasCondition(t, vk, v1alpha1.KeyReady, v1alpha1.ReasonSecretMissing)
	create(t, saved)
	hasCondition(t, vk, v1alpha1.KeyReady, v1alpha1.ReasonAvailable)
	if delivered(t, pv.Name) != kek {
		t.Error("another key")
	}
}

// A delivery Secret that is deleted or edited is restored at once.
func TestDeliveryRestored(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	c, pv, kek := volume(t, ns, "data", del)
	sv := sealed(pv.Name)
	hasCondition(t, sv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonDelivered)
	destroy(t, secretNamed(pv.Name))
	if delivered(t, pv.Name) != kek {
		t.Error("another key")
	}
	hasEvent(t, c, corev1.EventTypeWarning, v1alpha1.ReasonRestored) // where users look
	eventually(t, func() error {
		s, err := get(t.Context(), operatortest.Namespace, pv.Name, &corev1.Secret{})
		if err != nil {
			return err
		}
		metav1.SetMetaDataAnnotation(&s.ObjectMeta, v1alpha1.AllowAnnotation, s.Name)
		if err := env.Client.Update(t.Context(), s); err != nil {
			return err
		}
		immutable := true
		s.Data, s.Immutable = map[string][]byte{"kek": []byte("nonsense")}, &immutable
		return env.Client.Update(t.Context(), s)
	})
	eventually(t, func() error {
		s, err := get(t.Context(), operatortest.Namespace, pv.Name, &corev1.Secret{})
		if err == nil && string(s.Data["kek"]) != kek {
			err = errors.New("not restored")
		}
		return err
	})
}

// A foreign Secret with the name of a delivery Secret is left alone.
func TestDeliveryConflict(t *testing.T) {
	stop := start(t, nil)
	stop()
	ns := namespace(t)
	c := operatortest.Claim(ns, "data")
	create(t, c)
	foreign := secretNamed("pvc-" + string(c.UID))
	foreign.StringData = map[string]string{"what": "ever"}
	create(t, foreign)
	start(t, nil)
	sv := sealed(foreign.Name)
	hasCondition(t, sv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonPrepared)
	pv := operatortest.Volume(c, "node-a", del)
	bind(t, c, pv)
	hasCondition(t, sv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonConflict)
	hasEvent(t, c, corev1.EventTypeWarning, v1alpha1.ReasonConflict)
	remove(t, foreign)
	delivered(t, foreign.Name)
	remove(t, c, pv)
	gone(t, sv, secretNamed(foreign.Name))
}

// A VolumeKey without a spec gets the defaults, and its key Secret is deleted with it.
func TestBareKey(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	bare := &unstructured.Unstructured{Object: map[string]any{"apiVersion": v1alpha1.GroupVersion.String(), "kind": "VolumeKey",
		"metadata": map[string]any{"namespace": ns, "name": "bare"}}}
	create(t, bare)
	vk := keyNamed(ns, "bare")
	key := keySecretOf(t, vk)
	remove(t, vk)
	gone(t, vk, key)
}

// The deletion of a key that a volume needs waits, reports the volume, and completes when the
// volume is gone.
func TestKeyInUse(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	c, pv, _ := volume(t, ns, "data", del)
	vk := keyNamed(ns, pv.Name)
	key := keySecretOf(t, vk)
	remove(t, vk)
	if msg := hasCondition(t, vk, v1alpha1.KeyDeletionBlocked, v1alpha1.ReasonInUse); !strings.Contains(msg, pv.Name) {
		t.Error(msg)
	}
	if note := hasEvent(t, vk, corev1.EventTypeWarning, v1alpha1.ReasonInUse); !strings.Contains(note, pv.Name) {
		t.Error(note)
	}
	sv := sealed(pv.Name)
	remove(t, sv) // neither is the volume's SealedVolume
	hasEvent(t, getSealed(t, pv.Name), corev1.EventTypeWarning, v1alpha1.ReasonNeeded)
	remove(t, c, pv)
	gone(t, sv, vk, key, secretNamed(pv.Name))
}

func getSealed(t *testing.T, name string) *v1alpha1.SealedVolume {
	t.Helper()
	sv, err := get(t.Context(), "", name, &v1alpha1.SealedVolume{})
	if err != nil {
		t.Fatal(err)
	}
	return sv
}

// exchanged creates PersistentVolumes with the name of one that is gone, but of another volume or
// on another node. They do not get its key.
func exchanged(t *testing.T, c *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, sv *v1alpha1.SealedVolume) {
	t.Helper()
	for _, change := range []func(pv *corev1.PersistentVolume){
		func(pv *corev1.PersistentVolume) { pv.Spec.CSI.VolumeHandle = "other" },
		func(pv *corev1.PersistentVolume) {
			pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values = []string{"node-b"}
		},
	} {
		other := operatortest.Volume(c, "node-a", retain)
		change(other)
		create(t, other)
		hasCondition(t, sv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonExchanged)
		gone(t, secretNamed(pv.Name))
		remove(t, other)
		hasCondition(t, sv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonKept)
	}
}

// With Retain, the key stays with the PersistentVolume, even when that object is deleted, until the
// administrator deletes the SealedVolume.
func TestRetain(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	c, pv, kek := volume(t, ns, "data", retain)
	vk := keyNamed(ns, pv.Name)
	key := keySecretOf(t, vk)
	remove(t, c)
	sv := sealed(pv.Name)
	phase := func(want v1alpha1.Phase) {
		t.Helper()
		eventually(t, func() error {
			err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(sv), sv)
			if err == nil && sv.Status.Phase != want {
				err = fmt.Errorf("phase %s, want %s", sv.Status.Phase, want)
			}
			return err
		})
	}
	phase(v1alpha1.PhaseReleased)
	gone(t, secretNamed(pv.Name)) // a claim of the same name is another claim
	remove(t, pv)
	phase(v1alpha1.PhaseRetained)
	hasCondition(t, sv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonKept)
	gone(t, secretNamed(pv.Name)) // nobody may use the volume
	exchanged(t, c, pv, sv)
	if sv.Spec.NodeName != "node-a" || sv.Spec.VolumeHandle != pv.Spec.CSI.VolumeHandle {
		t.Errorf("%+v", sv.Spec)
	}
	c = operatortest.Claim(ns, "data") // another claim of the same name
	create(t, c)
	again := operatortest.Volume(c, "node-a", retain)
	again.Name, again.Spec.CSI.VolumeHandle, again.Spec.CSI.NodeStageSecretRef = pv.Name, pv.Spec.CSI.VolumeHandle, pv.Spec.CSI.NodeStageSecretRef
	bind(t, c, again)
	if delivered(t, pv.Name) != kek {
		t.Error("another key")
	}
	remove(t, c, again)
	phase(v1alpha1.PhaseRetained)
	// The same volume under another name, for another claim, gets its key.
	c2 := operatortest.Claim(ns, "again")
	create(t, c2)
	pv2 := operatortest.Volume(c2, "node-a", retain)
	pv2.Spec.CSI.VolumeHandle = pv.Spec.CSI.VolumeHandle
	pv2.Name = "again-" + ns
	pv2.Spec.CSI.NodeStageSecretRef = &corev1.SecretReference{Namespace: operatortest.Namespace, Name: pv2.Name}
	bind(t, c2, pv2)
	if delivered(t, pv2.Name) != kek {
		t.Error("the volume got another key with its new name")
	}
	remove(t, sv)
	gone(t, sv, secretNamed(pv.Name))
	if _, err := get(t.Context(), key.Namespace, key.Name, &corev1.Secret{}); err != nil {
		t.Fatal("the key is gone while a volume needs it:", err)
	}
	remove(t, c2, pv2)
	remove(t, sealed(pv2.Name))
	gone(t, sealed(pv2.Name), vk, key)
}

// Volumes with a Secret that Sealvol does not manage get a SealedVolume, but no key.
func TestExternalSecret(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	pv := operatortest.Volume(operatortest.Claim(ns, "x"), "node-a", del)
	pv.Name, pv.Spec.ClaimRef = "external-"+ns, nil
	pv.Spec.CSI.NodePublishSecretRef, pv.Spec.CSI.NodeExpandSecretRef = nil, nil
	pv.Spec.CSI.NodeStageSecretRef = &corev1.SecretReference{Namespace: ns, Name: "theirs"}
	create(t, pv)
	hasCondition(t, sealed(pv.Name), v1alpha1.VolumeKeyReady, v1alpha1.ReasonExternal)
	remove(t, pv)
	gone(t, sealed(pv.Name))
}
