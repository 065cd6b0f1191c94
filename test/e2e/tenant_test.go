//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// TestTenantRights: a user with Kubernetes' role edit in a namespace can create and delete
// VolumeKeys only there, a user with the role view can read them, and neither can access objects
// that belong to the cluster.
func TestTenantRights(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	for _, role := range []string{"edit", "view"} {
		c.Kubectl("create", "rolebinding", role, "--clusterrole="+role, "--user="+c.Namespace+"-"+role)
	}
	for _, want := range []struct{ role, verb, resource, namespace, answer string }{
		{"edit", "create", "volumekeys.sealvol.dev", c.Namespace, "yes"},
		{"edit", "delete", "volumekeys.sealvol.dev", c.Namespace, "yes"},
		{"view", "list", "volumekeys.sealvol.dev", c.Namespace, "yes"},
		{"view", "create", "volumekeys.sealvol.dev", c.Namespace, "no"},
		{"edit", "create", "volumekeys.sealvol.dev", "default", "no"},
		{"edit", "patch", "volumekeys.sealvol.dev --subresource=status", c.Namespace, "no"},
		{"edit", "list", "sealedvolumes.sealvol.dev", c.Namespace, "no"},
		{"edit", "get", "secrets", "sealvol-system", "no"},
	} {
		c.Eventually(time.Minute, func() error { // a controller aggregates the roles
			args := append([]string{"auth", "can-i", want.verb}, strings.Fields(want.resource)...)
			out, err := c.TryKubectl(append(args, "--namespace="+want.namespace, "--as="+c.Namespace+"-"+want.role)...)
			if !strings.HasPrefix(out, want.answer) { // it exits with 1 for "no"
				return fmt.Errorf("%+v: %q %w", want, out, err)
			}
			return nil
		})
	}
}
