package operator_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

// forged returns a PersistentVolume with the name of another one, with which a kubelet could read
// its Secret: the API server compares only name and namespace of the claim, the policy only the
// UID.
func forged(name string, uid types.UID, theirs *corev1.PersistentVolumeClaim, node string) *corev1.PersistentVolume {
	pv := operatortest.Volume(theirs, node, del)
	pv.Name, pv.Spec.ClaimRef.UID = name, uid
	pv.Spec.PersistentVolumeReclaimPolicy = retain // the key must not be kept for it
	ref := &corev1.SecretReference{Namespace: operatortest.Namespace, Name: name}
	pv.Spec.CSI.NodeStageSecretRef, pv.Spec.CSI.NodePublishSecretRef, pv.Spec.CSI.NodeExpandSecretRef = ref, ref, ref
	return pv
}

// Someone creates the PersistentVolume of a deleted volume again at the first moment, for another
// claim. By then, the key is gone.
func TestNameTakenAtOnce(t *testing.T) {
	start(t, nil)
	ns, ns2 := namespace(t), namespace(t)
	theirs := operatortest.Claim(ns2, "theirs")
	create(t, theirs)
	for i := range 8 {
		c, pv, _ := volume(t, ns, fmt.Sprintf("data-%d", i), del)
		name, uid := pv.Name, c.UID
		ctx, cancel := context.WithCancel(t.Context())
		won := make(chan error, 1)
		go func() {
			won <- func() error {
				for ctx.Err() == nil {
					err := env.Client.Create(ctx, forged(name, uid, theirs, "node-a"))
					if apierrors.IsAlreadyExists(err) {
						continue
					}
					if err != nil {
						return err
					}
					if err := env.Client.Get(ctx, client.ObjectKey{Namespace: operatortest.Namespace, Name: name}, &corev1.Secret{}); !apierrors.IsNotFound(err) {
						return fmt.Errorf("the key can be read: %w", err)
					}
					return nil
				}
				return ctx.Err()
			}()
		}()
		// Also if protection finalizers are removed while the volume is in use.
		deleted := []client.Object{pv, c}
		if i%2 == 0 {
			deleted = []client.Object{c, pv}
		}
		for _, o := range deleted {
			if err := env.Client.Delete(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			strip(t, o)
		}
		if err := <-won; err != nil {
			t.Error(err)
		}
		cancel()
		undelivered(t, name) // now and later
		sv := sealed(name)
		eventually(t, func() error { // it does not get what belonged to the volume
			err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(sv), sv)
			if err == nil && sv.Spec.Key != nil {
				err = fmt.Errorf("the key stays: %+v", sv.Spec)
			}
			return client.IgnoreNotFound(err)
		})
		gone(t, keyNamed(ns, name))
		remove(t, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}, sv)
		gone(t, sv)
	}
	remove(t, theirs)
}

// strip removes the finalizers of Kubernetes from an object, unless another object has its name by
// now.
func strip(t *testing.T, o client.Object) {
	t.Helper()
	uid := o.GetUID()
	eventually(t, func() error {
		err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o)
		if err != nil || o.GetUID() != uid {
			return client.IgnoreNotFound(err)
		}
		o.SetFinalizers(slices.DeleteFunc(o.GetFinalizers(), func(f string) bool { return strings.HasPrefix(f, "kubernetes.io/") }))
		return client.IgnoreNotFound(env.Client.Update(t.Context(), o))
	})
}

// The key of a claim is ready before its volume is created. A PersistentVolume of that name gets
// the key only if it is for that claim and on the node of the claim.
func TestNameTakenBefore(t *testing.T) {
	start(t, nil)
	ns, ns2 := namespace(t), namespace(t)
	_, _, kek := volume(t, ns, "data", del)
	theirs := operatortest.Claim(ns2, "theirs")
	create(t, theirs)
	shared := keyNamed(ns, "shared")
	create(t, shared)
	clone := copyOf(ns, "clone", "PersistentVolumeClaim", "data")
	sharing := operatortest.Claim(ns, "sharing")
	sharing.Annotations = map[string]string{v1alpha1.KeyAnnotation: "shared", "volume.kubernetes.io/selected-node": "node-a"}
	for _, c := range []*corev1.PersistentVolumeClaim{clone, sharing} {
		create(t, c)
		name := "pvc-" + string(c.UID)
		prepared(t, name)
		sv := sealed(name)
		for what, pv := range map[string]*corev1.PersistentVolume{
			"for another claim": forged(name, c.UID, theirs, "node-a"),
			"on another node":   operatortest.Volume(c, "node-b", del),
		} {
			create(t, pv)
			if msg := hasCondition(t, sv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonExchanged); !strings.Contains(msg, "Delete") {
				t.Error(what, msg)
			}
			undelivered(t, name)
			if sv.Spec.VolumeHandle != "" {
				t.Errorf("%s: %+v", what, sv.Spec)
			}
			remove(t, pv)
			hasCondition(t, sv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonPrepared)
		}
		pv := operatortest.Volume(c, "node-a", del)
		if c == clone {
			pv.Spec.CSI.VolumeAttributes = map[string]string{"keyVolume": "vol-whatever"}
		}
		bind(t, c, pv)
		if got := delivered(t, name); c == clone && got != kek {
			t.Error("another key")
		}
		remove(t, c, pv)
		gone(t, sv)
	}
}

// The same, if no operator ran, so that no SealedVolume describes the volume of the claim.
func TestNameTakenUnseen(t *testing.T) {
	stop := start(t, nil)
	ns, ns2 := namespace(t), namespace(t)
	volume(t, ns, "data", del)
	theirs := operatortest.Claim(ns2, "theirs")
	clone, other := copyOf(ns, "clone", "PersistentVolumeClaim", "data"), operatortest.Claim(ns, "other")
	stop()
	create(t, theirs, clone, other)
	mine := forged("pvc-"+string(other.UID), other.UID, theirs, "node-b")
	there := operatortest.Volume(clone, "node-b", del) // where no clone can be created
	create(t, mine, there)
	start(t, nil)
	for _, pv := range []*corev1.PersistentVolume{mine, there} {
		hasCondition(t, sealed(pv.Name), v1alpha1.VolumeKeyReady, v1alpha1.ReasonExchanged)
		undelivered(t, pv.Name)
	}
	remove(t, mine)
	prepared(t, mine.Name)
	bind(t, other, operatortest.Volume(other, "node-a", del))
	delivered(t, mine.Name)
}

// A PersistentVolume in another namespace, or on another node, that claims to be a volume or a copy
// of it, does not get its key, and does not prevent the erasure of the key.
func TestForeignOrigin(t *testing.T) {
	for mode, change := range map[string][]func(*ctrl.Options, *operator.Options){"local": nil, "attachments": {attachments}} {
		t.Run(mode, func(t *testing.T) {
			start(t, nil, change...)
			ns, ns2 := namespace(t), namespace(t)
			c, pv, _ := volumeIn(t, mode, ns)
			vk := keyNamed(ns, pv.Name)
			key := keySecretOf(t, vk)
			var theirs []client.Object
			claim := func(ns, node, name string, change func(pv *corev1.PersistentVolume)) *corev1.PersistentVolume {
				x := operatortest.Claim(ns, name)
				create(t, x)
				v := operatortest.Volume(x, node, del)
				change(v)
				bind(t, x, v)
				theirs = append(theirs, x, v)
				return v
			}
			same := claim(ns2, "node-a", "same", func(v *corev1.PersistentVolume) { v.Spec.CSI.VolumeHandle = pv.Spec.CSI.VolumeHandle })
			copied := func(name string) func(*corev1.PersistentVolume) {
				return func(v *corev1.PersistentVolume) {
					v.Name, v.Spec.CSI.NodeStageSecretRef = name, &corev1.SecretReference{Namespace: operatortest.Namespace, Name: name}
					v.Spec.CSI.VolumeAttributes = map[string]string{"keyVolume": pv.Spec.CSI.VolumeHandle}
				}
			}
			cp := claim(ns2, "node-a", "copy", copied("copy-"+ns2))
			msg := hasCondition(t, sealed(cp.Name), v1alpha1.VolumeKeyReady, v1alpha1.ReasonNotGranted)
			if !strings.Contains(msg, "kubectl annotate sealedvolume "+pv.Name) {
				t.Error(msg)
			}
			for _, v := range []*corev1.PersistentVolume{same, cp} {
				for _, n := range []string{v.Name, key.Name} {
					if s, err := get(t.Context(), operatortest.Namespace, n, &corev1.Secret{}); n == v.Name && err == nil && string(s.Data["kek"]) == string(key.Data["kek"]) {
						t.Errorf("%s has the key of another namespace", v.Name)
					}
				}
			}
			undelivered(t, cp.Name)
			// Also in the same namespace, on a node where no copy can be created.
			if mode == "local" {
				there := claim(ns, "node-b", "there", copied("there-"+ns))
				hasCondition(t, sealed(there.Name), v1alpha1.VolumeKeyReady, v1alpha1.ReasonSourceUnknown)
				undelivered(t, there.Name)
			}
			remove(t, c, pv)
			gone(t, sealed(pv.Name), vk, key)
			remove(t, theirs...)
		})
	}
}

// A volume is gone, but a snapshot still needs its key. The owner of another node can create its
// PersistentVolume there, with the same handle. This does not keep the key when the snapshot is
// deleted.
func TestNamedAgainElsewhere(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	c, pv, _ := volume(t, ns, "data", del)
	vk := keyNamed(ns, pv.Name)
	key := keySecretOf(t, vk)
	snapshot := &snapshotv1.VolumeSnapshotContent{ObjectMeta: metav1.ObjectMeta{Name: "content-" + ns}, Spec: snapshotv1.VolumeSnapshotContentSpec{
		Driver: operator.DriverName, DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete, VolumeSnapshotRef: corev1.ObjectReference{Namespace: ns, Name: "s", UID: "1"},
		Source: snapshotv1.VolumeSnapshotContentSource{VolumeHandle: &pv.Spec.CSI.VolumeHandle}}}
	create(t, snapshot)
	again := operatortest.Volume(c, "node-b", del)
	remove(t, c, pv)
	gone(t, pv)
	if err := clientOf(t, "node", "node-b").Create(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	hasCondition(t, sealed(pv.Name), v1alpha1.VolumeKeyReady, v1alpha1.ReasonExchanged)
	undelivered(t, pv.Name)
	remove(t, snapshot)
	gone(t, vk, key)
	remove(t, again)
	gone(t, sealed(pv.Name))
}

// volumeIn creates a claim with its volume in one of the operator's two modes.
func volumeIn(t *testing.T, mode, ns string) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, string) {
	t.Helper()
	if mode == "local" {
		return volume(t, ns, "data", del)
	}
	return zonal(t, ns, "data")
}

// A PersistentVolume that is deleted while it is bound keeps its key until nobody uses it. Then the
// delivery Secret is deleted first. An operator that did not run meanwhile does the same.
func TestDeletedInUse(t *testing.T) {
	stop := start(t, nil)
	ns := namespace(t)
	c, pv, kek := volume(t, ns, "data", del)
	if err := env.Client.Delete(t.Context(), pv); err != nil {
		t.Fatal(err)
	}
	destroy(t, secretNamed(pv.Name)) // it is needed, so it is created again
	if delivered(t, pv.Name) != kek {
		t.Error("another key")
	}
	hasEvent(t, c, corev1.EventTypeWarning, v1alpha1.ReasonRestored)
	stop()
	remove(t, c, pv)
	if _, err := get(t.Context(), "", pv.Name, pv); err != nil || len(pv.Finalizers) != 1 || pv.Finalizers[0] != v1alpha1.DeliveryFinalizer {
		t.Fatalf("the PersistentVolume of a delivered key: %v %v", err, pv.Finalizers)
	}
	start(t, nil)
	gone(t, pv)
	undelivered(t, pv.Name)
	gone(t, sealed(pv.Name), keyNamed(ns, pv.Name))
}

// A delivery Secret with a foreign finalizer is deleted nevertheless.
func TestHeldDelivery(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	c, pv, _ := volume(t, ns, "data", del)
	eventually(t, func() error {
		s := secretNamed(pv.Name)
		return update(t.Context(), s, func() { metav1.SetMetaDataAnnotation(&s.ObjectMeta, v1alpha1.AllowAnnotation, s.Name) })
	})
	eventually(t, func() error {
		s := secretNamed(pv.Name)
		return update(t.Context(), s, func() { s.Finalizers = []string{"example.com/mine"} })
	})
	remove(t, c, pv)
	gone(t, pv)
	undelivered(t, pv.Name)
}

// A delivery Secret that is left behind after its volume was removed by force is deleted, even if
// someone has created a PersistentVolume of its name by then.
func TestStrayDelivery(t *testing.T) {
	stop := start(t, nil)
	ns := namespace(t)
	theirs := operatortest.Claim(ns, "theirs")
	create(t, theirs)
	var names []string
	var forgeries []client.Object
	for _, again := range []bool{false, true} {
		c, pv, _ := volume(t, ns, fmt.Sprintf("data-%t", again), del)
		names = append(names, pv.Name)
		if again {
			forgeries = append(forgeries, forged(pv.Name, c.UID, theirs, "node-b"))
		}
	}
	stop()
	for i, name := range names {
		sv, pv := sealed(name), &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
		remove(t, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("data-%t", i == 1)}}, pv, sv)
		for _, o := range []client.Object{pv, sv} {
			eventually(t, func() error {
				return client.IgnoreNotFound(update(t.Context(), o, func() { o.SetFinalizers(nil) }))
			})
		}
		gone(t, pv, sv)
	}
	create(t, forgeries...)
	start(t, nil)
	for _, name := range names {
		gone(t, secretNamed(name))
	}
	remove(t, append(forgeries, theirs)...)
}

// Volumes of an earlier version: a key that was delivered before the PersistentVolume existed is
// withdrawn, and PersistentVolumes get the finalizer.
func TestUpgraded(t *testing.T) {
	stop := start(t, nil)
	ns := namespace(t)
	c, pv, kek := volume(t, ns, "data", del)
	pending := operatortest.Claim(ns, "pending")
	create(t, pending)
	name := "pvc-" + string(pending.UID)
	prepared(t, name)
	stop()
	early := secretNamed(name)
	early.Labels = map[string]string{v1alpha1.RoleLabel: v1alpha1.RoleDelivery}
	early.Data = keySecretOf(t, keyNamed(ns, name)).Data
	create(t, early)
	eventually(t, func() error {
		return update(t.Context(), pv, func() { pv.Finalizers = []string{"kubernetes.io/pv-protection"} })
	})
	was, err := get(t.Context(), operatortest.Namespace, pv.Name, &corev1.Secret{})
	if err != nil {
		t.Fatal(err)
	}
	start(t, nil)
	gone(t, early)
	eventually(t, func() error {
		_, err := get(t.Context(), "", pv.Name, pv)
		if err == nil && !slices.Contains(pv.Finalizers, v1alpha1.DeliveryFinalizer) {
			err = errors.New("the PersistentVolume has no finalizer")
		}
		return err
	})
	if now, err := get(t.Context(), operatortest.Namespace, pv.Name, &corev1.Secret{}); err != nil || now.ResourceVersion != was.ResourceVersion || string(now.Data["kek"]) != kek {
		t.Errorf("the delivery Secret was written again: %v", err)
	}
	remove(t, pending, c, pv)
	gone(t, sealed(name), sealed(pv.Name))
}
