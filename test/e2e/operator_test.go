//go:build e2e

package e2e

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// TestOperatorKilled: the operator is killed while claims get their keys, and while they are
// deleted. Each claim gets exactly one key, and at the end nothing is left.
func TestOperatorKilled(t *testing.T) {
	c := cluster.New(t)
	kill := func() {
		t.Helper()
		c.Kubectl("-n", c.System, "delete", "pods", "-l", "app.kubernetes.io/component=operator", "--grace-period=0", "--force")
	}
	const volumes = 4
	var all string
	for i := range volumes {
		all += claim(fmt.Sprintf("data-%d", i), "64Mi") + pod(fmt.Sprintf("app-%d", i), fmt.Sprintf("data-%d", i), idle)
	}
	c.Apply(all)
	kill()
	c.Eventually(cluster.Timeout, func() error { // when it starts to work
		var list v1alpha1.VolumeKeyList
		if err := c.Client().List(c.Context(), &list, client.InNamespace(c.Namespace)); err != nil {
			return err
		}
		if len(list.Items) == 0 {
			return fmt.Errorf("there is no key yet")
		}
		return nil
	})
	kill()
	var left []remains
	for i := range volumes {
		p := c.PodReady(fmt.Sprintf("app-%d", i))
		left = append(left, remainsOf(t, c, p.Spec.NodeName, fmt.Sprintf("data-%d", i)))
		key := sealed(t, c, fmt.Sprintf("data-%d", i)).Spec.Key
		var secrets corev1.SecretList
		if err := c.Client().List(c.Context(), &secrets, client.InNamespace(c.System), client.MatchingLabels{v1alpha1.KeyUIDLabel: key.UID}); err != nil {
			t.Fatal(err)
		}
		if len(secrets.Items) != 1 {
			t.Errorf("data-%d has %d keys", i, len(secrets.Items))
		}
	}
	c.Kubectl("delete", "pods,pvc", "--all", "--wait=false")
	kill()
	for _, r := range left {
		r.gone()
	}
}
