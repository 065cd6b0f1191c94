//go:build e2e_ebs

package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// TestEBSHelmTest: helm test succeeds with EBS volumes and leaves none.
func TestEBSHelmTest(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	out := c.Helm("test", "sealvol", "--namespace", c.System, "--timeout", "4m")
	if n := strings.Count(out, "Succeeded"); n != 1 {
		t.Errorf("%d succeeded, not one: %s", n, out)
	}
	var list corev1.PersistentVolumeList
	if err := c.Client().List(c.Context(), &list); err != nil {
		t.Fatal(err)
	}
	for _, pv := range list.Items {
		if pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.Namespace == c.System {
			c.Gone(&corev1.PersistentVolume{}, pv.Name)
		}
	}
}
