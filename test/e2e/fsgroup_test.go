//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// TestNonRoot: pods of different users, without root and without any capability, share a volume by
// its fsGroup.
func TestNonRoot(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	restricted := func(name string, user int, script string) string {
		return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  securityContext:
    {runAsNonRoot: true, runAsUser: %d, runAsGroup: %d, fsGroup: 2000, fsGroupChangePolicy: OnRootMismatch, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: main
      image: docker.io/library/busybox:1.35
      command: [sh, -ec, %q]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
  restartPolicy: Never
`, name, user, user, script)
	}
	c.Kubectl("label", "namespace", c.Namespace, "pod-security.kubernetes.io/enforce=restricted")
	c.Apply(claim("data", "64Mi") + restricted("alice", 1001, "umask 002; mkdir /data/shared; echo hello >/data/shared/note; id; stat -c '%A %g' /data; ls -ln /data/shared"))
	c.PodSucceeded("alice")
	if out := c.Logs("alice"); !strings.Contains(out, "drwxrwsr-x 2000") || !strings.Contains(out, "1001     2000") {
		t.Errorf("alice: %s", out)
	}
	c.Apply(restricted("bob", 1002, "grep hello /data/shared/note; echo 'from bob' >>/data/shared/note; ! chmod 777 /data/shared/note; echo done"))
	c.PodSucceeded("bob")
	if out := c.Logs("bob"); !strings.Contains(out, "done") || !strings.Contains(out, "Operation not permitted") {
		t.Errorf("bob: %s", out)
	}
}
