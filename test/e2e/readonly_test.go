//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// TestReadOnly: a pod with a read-only volume can read it, beside another pod that writes, and
// cannot change it.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	reader := strings.NewReplacer("claimName: data", "claimName: data, readOnly: true")
	c.Apply(claim("data", "64Mi") + pod("writer", "data", idle))
	c.PodReady("writer")
	c.Shell("writer", "echo one >/data/note")

	c.Apply(reader.Replace(pod("reader", "data", idle)))
	c.PodReady("reader")
	c.Shell("reader", "grep one /data/note")
	for _, change := range []string{"echo x >/data/new", "echo x >>/data/note", "rm /data/note", "mkdir /data/d", "chmod 777 /data/note", "touch /data/note"} {
		if out, err := c.TryExec("reader", "sh", "-ec", change); err == nil || !strings.Contains(err.Error(), "Read-only file system") {
			t.Errorf("%s: %s, %v", change, out, err)
		}
	}
	c.Shell("writer", "echo two >/data/note")
	c.Shell("reader", "grep two /data/note")

	// Also if it is the first and only pod on the node.
	c.DeletePod("writer")
	c.DeletePod("reader")
	c.Apply(reader.Replace(pod("reader", "data", idle)))
	c.PodReady("reader")
	c.Shell("reader", "grep two /data/note; ! touch /data/new")
}
