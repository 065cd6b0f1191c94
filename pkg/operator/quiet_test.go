package operator_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

// quiet checks that objects are not written again and again.
func quiet(t *testing.T, objs ...client.Object) {
	t.Helper()
	was := map[client.Object]string{}
	eventually(t, func() error {
		select {
		case <-time.After(time.Second):
		case <-t.Context().Done():
		}
		var errs []error
		for _, o := range objs {
			err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o)
			if err == nil && o.GetResourceVersion() != was[o] {
				err = fmt.Errorf("%T %s is written again and again", o, o.GetName())
			}
			was[o] = o.GetResourceVersion()
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

// The message of a copy that may not have a key names one of the volumes that have the key, and
// always the same one. The cache has no order, and each change of a condition reconciles all
// waiting volumes again.
func TestRefusedCopiesAreQuiet(t *testing.T) {
	start(t, nil)
	ns, ns2 := namespace(t), namespace(t)
	origin, pv, _ := volume(t, ns, "data", del)
	objs := []client.Object{}
	for i := range 7 {
		c := copyOf(ns, fmt.Sprintf("copy-%d", i), "PersistentVolumeClaim", "data")
		create(t, c)
		v := operatortest.Volume(c, "node-a", del)
		prepared(t, v.Name)
		v.Spec.CSI.VolumeAttributes = map[string]string{"keyVolume": pv.Spec.CSI.VolumeHandle}
		bind(t, c, v)
		delivered(t, v.Name)
		objs = append(objs, c, v)
	}
	var waiting []client.Object
	for i := range 6 {
		c := operatortest.Claim(ns2, fmt.Sprintf("theirs-%d", i))
		create(t, c)
		v := operatortest.Volume(c, "node-a", del)
		v.Name = fmt.Sprintf("theirs-%d-%s", i, ns2)
		v.Spec.CSI.NodeStageSecretRef = &corev1.SecretReference{Namespace: operatortest.Namespace, Name: v.Name}
		v.Spec.CSI.VolumeAttributes = map[string]string{"keyVolume": pv.Spec.CSI.VolumeHandle}
		bind(t, c, v)
		hasCondition(t, sealed(v.Name), v1alpha1.VolumeKeyReady, v1alpha1.ReasonNotGranted)
		objs, waiting = append(objs, c, v), append(waiting, sealed(v.Name))
	}
	remove(t, origin, pv)
	gone(t, sealed(pv.Name))
	quiet(t, waiting...)
	remove(t, objs...)
}

// The same for VolumeKeys that wait because of the limit, and for their claims.
func TestTooManyKeysAreQuiet(t *testing.T) {
	start(t, nil, func(_ *ctrl.Options, o *operator.Options) { o.MaxKeys = 12 })
	ns := namespace(t)
	var kept, waiting, objs []client.Object
	var names []string
	for i := range 12 {
		vk := keyNamed(ns, fmt.Sprintf("kept-%d", i))
		vk.Spec.DeletionPolicy = v1alpha1.DeletionRetain
		create(t, vk)
		s := keySecretOf(t, vk)
		kept, names = append(kept, s), append(names, s.Name)
		remove(t, vk)
		gone(t, vk)
	}
	slices.Sort(names)
	for i := range 4 {
		c := operatortest.Claim(ns, fmt.Sprintf("data-%d", i))
		create(t, c)
		sv, vk := sealed("pvc-"+string(c.UID)), keyNamed(ns, "pvc-"+string(c.UID))
		if msg := hasCondition(t, sv, v1alpha1.VolumeKeyReady, v1alpha1.ReasonTooMany); !strings.Contains(msg, strings.Join(names[:5], ", ")) {
			t.Errorf("want %v in %s", names[:5], msg)
		}
		waiting, objs = append(waiting, sv, vk), append(objs, c)
	}
	quiet(t, waiting...)
	remove(t, objs...)
	remove(t, kept...)
}
