//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// TestRawBlock: a pod has the volume as a device of exactly the requested size, and the next pod
// finds what it wrote. The node's disk does not contain it as plaintext.
func TestRawBlock(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	user := func(name, script string) string {
		return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  restartPolicy: Never
  containers:
    - name: main
      image: docker.io/library/busybox:1.35
      command: [sh, -ec, %q]
      volumeDevices: [{name: disk, devicePath: /dev/sealed}]
  volumes: [{name: disk, persistentVolumeClaim: {claimName: disk}}]
`, name, script)
	}
	c.Apply(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec:
  storageClassName: sealvol
  accessModes: [ReadWriteOnce]
  volumeMode: Block
  resources: {requests: {storage: 64Mi}}
` + user("writer", `
		exec 2>/dev/null # what programs say there may come later in the log
		mke2fs /dev/sealed
		yes 'a secret that must not be on the disk' | dd of=/dev/sealed bs=4k seek=4096 count=256 iflag=fullblock conv=notrunc,fsync
		blockdev --getsize64 /dev/sealed
		sha256sum /dev/sealed`))
	c.PodSucceeded("writer")
	wrote := strings.Fields(c.Logs("writer"))
	sum := wrote[len(wrote)-2]
	if size := wrote[len(wrote)-3]; size != "67108864" {
		t.Errorf("the device has %s bytes", size)
	}
	c.DeletePod("writer")

	c.Apply(user("reader", "sha256sum /dev/sealed; dd if=/dev/sealed bs=4k skip=4096 count=1"))
	node := c.PodSucceeded("reader").Spec.NodeName
	if out := c.Logs("reader"); !strings.Contains(out, sum) || !strings.Contains(out, "a secret that must not be on the disk") {
		t.Errorf("wrote %s, read %.200s", sum, out)
	}
	f, err := os.Open(imageOf(c, node, "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 256<<20))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("must not be on the disk")) {
		t.Error("the image holds what was written")
	}
}

// imageOf returns the path of a claim's image on this machine.
func imageOf(c *cluster.Cluster, node, claim string) string {
	return cluster.HostPath(node, "local/images/"+c.Volume(claim).Spec.CSI.VolumeHandle+".img")
}
