//go:build e2e

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sealvol/sealvol/test/documenttest"
	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// TestTour runs docs/tour.md with a kubeconfig of its own, because the tour changes its default
// namespace.
func TestTour(t *testing.T) {
	c := cluster.New(t) // collects diagnostics if a step fails
	t.Cleanup(func() {
		c.Kubectl("delete", "namespace", "tour", "--ignore-not-found", "--wait=false")
		c.Gone(&corev1.Namespace{}, "tour")
	})
	config, err := os.ReadFile(os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(own, config, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(c.Context(), 6*time.Minute)
	defer cancel()
	sh := newShell(ctx, t, "../..", append(os.Environ(), "KUBECONFIG="+own))
	d := documenttest.Document{Path: "../../docs/tour.md", Least: 20, Run: sh.run}
	d.Check(t)
}
