package operator_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

// A claim gets its key before it has a volume; when claim and volume go, all goes.
func TestClaim(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	c, pv, kek := volume(t, ns, "data", corev1.PersistentVolumeReclaimDelete)
	vk := &v1alpha1.VolumeKey{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: pv.Name}}
	hasCondition(t, vk, v1alpha1.KeyReady, v1alpha1.ReasonAvailable)
	sv := sealed(pv.Name)
	hasCondition(t, sv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonDelivered)
	hasEvent(t, c, corev1.EventTypeNormal, v1alpha1.ReasonDelivered)
	key, err := get(t.Context(), operatortest.Namespace, "volumekey-"+string(vk.UID)+"-v1", &corev1.Secret{})
	if err != nil || string(key.Data["kek"]) != kek || key.Immutable == nil || !*key.Immutable {
		t.Fatalf("key Secret: %v", err)
	}
	if f := vk.Status.Versions[0].Fingerprint; f == "" || f != sv.Spec.Key.Fingerprint || sv.Status.KeyVersion != 1 {
		t.Errorf("fingerprints %q and %+v", f, sv.Spec.Key)
	}
	remove(t, c, pv)
	gone(t, secretNamed(pv.Name), sv, vk, key)
}
