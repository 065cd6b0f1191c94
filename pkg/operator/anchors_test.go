package operator_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

// known writes what a node reports about a volume.
func known(t *testing.T, volume string, generation int64) {
	t.Helper()
	node := clientOf(t, "node", "node-a")
	eventually(t, func() error {
		sv, err := get(t.Context(), "", volume, &v1alpha1.SealedVolume{})
		if err != nil {
			return err
		}
		was := sv.DeepCopy()
		anchored(sv, generation, 1, "a")
		sv.Status.Format = &v1alpha1.VolumeFormat{State: v1alpha1.FormatFormatted, Time: metav1.Unix(1_700_000_000, 0)}
		return node.Status().Patch(t.Context(), sv, client.MergeFrom(was))
	})
}

// again returns a PersistentVolume of the same volume under another name, for a claim.
func again(c *corev1.PersistentVolumeClaim, name string, of *corev1.PersistentVolume) *corev1.PersistentVolume {
	pv := operatortest.Volume(c, "node-a", retain)
	pv.Name, pv.Spec.CSI.VolumeHandle = name, of.Spec.CSI.VolumeHandle
	pv.Spec.CSI.NodeStageSecretRef = &corev1.SecretReference{Namespace: operatortest.Namespace, Name: name}
	return pv
}

// hasAnchor checks that a volume whose key is delivered has its newest anchor and its format
// record.
func hasAnchor(ctx context.Context, volume string, generation int64) error {
	if err := env.Client.Get(ctx, client.ObjectKey{Namespace: operatortest.Namespace, Name: volume}, &corev1.Secret{}); err != nil {
		return client.IgnoreNotFound(err)
	}
	sv, err := get(ctx, "", volume, &v1alpha1.SealedVolume{})
	if err != nil {
		return err
	}
	if a, f := sv.Status.Anchor, sv.Status.Format; a == nil || a.Generation != generation || f == nil || f.State != v1alpha1.FormatFormatted {
		return fmt.Errorf("the key of %s is delivered, but the anchor is %+v, want generation %d; format %+v", volume, a, generation, f)
	}
	return nil
}

// retained waits until the PersistentVolume of a volume is gone.
func retained(t *testing.T, volume string) {
	t.Helper()
	eventually(t, func() error {
		sv, err := get(t.Context(), "", volume, &v1alpha1.SealedVolume{})
		if err == nil && sv.Status.Phase != v1alpha1.PhaseRetained {
			err = fmt.Errorf("phase %s", sv.Status.Phase)
		}
		return err
	})
}

// twoNames creates a second PersistentVolume of a volume. With both, the volume would have two
// anchors, so the older one has the key until it is deleted. It returns the name of the second.
func twoNames(t *testing.T, ns string, c *corev1.PersistentVolumeClaim, pv, first *corev1.PersistentVolume, generation int64) string {
	t.Helper()
	c2 := operatortest.Claim(ns, "second")
	create(t, c2)
	second := again(c2, "a-second-"+ns, pv) // sorts first; perhaps created in the same second
	bind(t, c2, second)
	sv := sealed(second.Name)
	if msg := hasCondition(t, sv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonDuplicate); !strings.Contains(msg, pv.Name) {
		t.Error(msg)
	}
	undelivered(t, second.Name)
	known(t, pv.Name, generation+10)
	remove(t, c, first)
	delivered(t, second.Name)
	if err := hasAnchor(t.Context(), second.Name, generation+10); err != nil {
		t.Error(err)
	}
	remove(t, c2, second)
	return second.Name
}

// If the PersistentVolume of a volume is created again under another name, and later under its
// first name, the volume has its newest anchor before it has its key, wherever the operator is
// interrupted.
func TestAnchorFollows(t *testing.T) {
	stop := start(t, nil)
	ns := namespace(t)
	c, pv, kek := volume(t, ns, "data", retain)
	known(t, pv.Name, 7)
	remove(t, c, pv)
	retained(t, pv.Name)
	stop()
	generation := int64(7)
	names := []string{pv.Name}
	for at := int64(1); ; at++ {
		name := fmt.Sprintf("again-%d-%s", at, ns)
		c := operatortest.Claim(ns, fmt.Sprintf("again-%d", at))
		create(t, c)
		cut := &cutAt{after: at%2 == 0, names: map[string]bool{name: true}}
		want := generation
		cut.look = func(ctx context.Context, name string) error { return hasAnchor(ctx, name, want) }
		cut.at.Store((at + 1) / 2)
		next := again(c, name, pv)
		bind(t, c, next)
		stop := start(t, cut.wrap)
		cut.lives(t, &stop, func() error {
			_, err := get(t.Context(), operatortest.Namespace, name, &corev1.Secret{})
			return err
		})
		if delivered(t, name) != kek {
			t.Error("another key")
		}
		if s := cut.fatal.Load(); s != nil {
			t.Fatalf("interrupted at write %d: %s", at, *s)
		}
		cut.mu.Lock()
		delete(cut.names, name)
		cut.mu.Unlock()
		last := cut.at.Load() > 0 && cut.after
		cut.at.Store(0)
		hasCondition(t, sealed(name), v1alpha1.VolumeKeyReady, v1alpha1.ReasonDelivered)
		generation++
		known(t, name, generation)
		names = append(names, name)
		remove(t, c, next)
		retained(t, name)
		stop()
		if last {
			t.Logf("%d writes", at/2)
			break
		}
	}
	// The first name again. What its SealedVolume recorded itself is out of date.
	start(t, nil)
	c = operatortest.Claim(ns, "first")
	create(t, c)
	first := again(c, pv.Name, pv)
	bind(t, c, first)
	delivered(t, pv.Name)
	if err := hasAnchor(t.Context(), pv.Name, generation); err != nil {
		t.Error(err)
	}
	second := twoNames(t, ns, c, pv, first, generation)
	for _, n := range append(names, second) {
		remove(t, sealed(n))
		gone(t, sealed(n))
	}
}

// What a node reports about a volume of its own with the handle of another volume has no effect.
func TestAnchorOfOther(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	c, pv, _ := volume(t, ns, "data", retain)
	known(t, pv.Name, 7)
	remove(t, c, pv)
	retained(t, pv.Name)
	x := operatortest.Claim(ns, "other")
	create(t, x)
	prepared(t, "pvc-"+string(x.UID))
	other := operatortest.Volume(x, "node-b", del)
	other.Spec.CSI.VolumeHandle = pv.Spec.CSI.VolumeHandle
	bind(t, x, other)
	delivered(t, other.Name) // with its own key
	eventually(t, func() error {
		sv, err := get(t.Context(), "", other.Name, &v1alpha1.SealedVolume{})
		if err != nil {
			return err
		}
		was := sv.DeepCopy()
		anchored(sv, 1<<62, 1, "b")
		return env.Client.Status().Patch(t.Context(), sv, client.MergeFrom(was))
	})
	c = operatortest.Claim(ns, "again")
	create(t, c)
	next := again(c, "again-"+ns, pv)
	bind(t, c, next)
	delivered(t, next.Name)
	if err := hasAnchor(t.Context(), next.Name, 7); err != nil {
		t.Error(err)
	}
	remove(t, c, next, x, other)
	remove(t, sealed(next.Name), sealed(pv.Name))
}
