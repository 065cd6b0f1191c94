//go:build e2e || e2e_ebs

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// remains are all traces of a claim's volume in the cluster.
type remains struct {
	t       *testing.T
	c       *cluster.Cluster
	files   []string
	objects map[string]client.Object
}

// remainsOf collects the traces of a claim's volume; all of them must exist now.
func remainsOf(t *testing.T, c *cluster.Cluster, node, claim string) remains {
	t.Helper()
	pv := c.Volume(claim)
	image := cluster.HostPath(node, "local/images/"+pv.Spec.CSI.VolumeHandle+".img")
	record := cluster.HostPath(node, "local/volumes/"+strings.Split(pv.Spec.CSI.VolumeHandle, "-")[1]+".json")
	sv := sealed(t, c, claim)
	r := remains{t, c, []string{image, record}, map[string]client.Object{
		"PersistentVolume": &corev1.PersistentVolume{ObjectMeta: pv.ObjectMeta}, "SealedVolume": &v1alpha1.SealedVolume{ObjectMeta: sv.ObjectMeta},
	}}
	key := &v1alpha1.VolumeKey{}
	key.Namespace, key.Name = sv.Spec.Key.Namespace, sv.Spec.Key.Name
	delivery, secret := &corev1.Secret{}, &corev1.Secret{}
	delivery.Namespace, delivery.Name = c.System, pv.Name
	secret.Namespace, secret.Name = c.System, sv.Spec.Key.SecretName
	r.objects["VolumeKey"], r.objects["delivery Secret"], r.objects["key Secret"] = key, delivery, secret
	for kind, o := range r.objects {
		if err := c.Client().Get(c.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
	}
	for _, f := range r.files {
		if _, err := os.Stat(f); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// gone waits until nothing is left.
func (r remains) gone() {
	r.t.Helper()
	r.c.Eventually(cluster.Timeout, func() error {
		for kind, o := range r.objects {
			if err := r.c.Client().Get(r.c.Context(), client.ObjectKeyFromObject(o), o); err == nil {
				return fmt.Errorf("%s %s is left, finalizers %v", kind, o.GetName(), o.GetFinalizers())
			} else if !apierrors.IsNotFound(err) {
				return err
			}
		}
		for _, f := range r.files {
			if _, err := os.Stat(f); err == nil {
				return fmt.Errorf("%s is left", f)
			} else if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	})
}

// sealed waits until a claim's SealedVolume has its key.
func sealed(t *testing.T, c *cluster.Cluster, claim string) *v1alpha1.SealedVolume {
	t.Helper()
	var sv *v1alpha1.SealedVolume
	cluster.Wait(c, &v1alpha1.SealedVolume{}, c.Volume(claim).Name, cluster.Timeout, func(v *v1alpha1.SealedVolume) error {
		if sv = v; v.Spec.Key == nil || v.Spec.Key.SecretName == "" {
			return errors.New("it has no key")
		}
		return nil
	})
	return sv
}
