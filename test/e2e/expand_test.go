//go:build e2e

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// TestExpand: a claim is expanded while a pod writes to its volume. The pod notices nothing except
// the new size.
func TestExpand(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Apply(claim("data", "128Mi") + pod("load", "data", writes))
	c.PodReady("load")
	writesOn(t, c, "load", 5)
	if b := sizeInPod(t, c); b > 128<<20 {
		t.Errorf("the file system has %d bytes", b)
	}

	c.Kubectl("patch", "pvc", "data", "-p", `{"spec": {"resources": {"requests": {"storage": "320Mi"}}}}`)
	expanded(c, "data", "320Mi")
	if b := sizeInPod(t, c); b < 256<<20 {
		t.Errorf("the file system has %d bytes", b)
	}
	writesOn(t, c, "load", 5)
	c.Shell("load", "head -c 200000000 /dev/zero >/data/big && sync")
	c.Event("PersistentVolumeClaim", "data", `FileSystemResizeSuccessful`)

	if out := c.KubectlFails("patch", "pvc", "data", "-p", `{"spec": {"resources": {"requests": {"storage": "64Mi"}}}}`); !strings.Contains(out, "be less than") {
		t.Error(out)
	}
}

// sizeInPod returns the size that df shows in the pod load.
func sizeInPod(t *testing.T, c *cluster.Cluster) int64 {
	t.Helper()
	f := strings.Fields(c.Shell("load", "df -P -k /data | tail -n 1"))
	k, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return k << 10
}

// expanded waits until a claim has a new size.
func expanded(c *cluster.Cluster, claim, size string) {
	want := resource.MustParse(size)
	cluster.Wait(c, &corev1.PersistentVolumeClaim{}, claim, cluster.Timeout, func(p *corev1.PersistentVolumeClaim) error {
		if has := p.Status.Capacity[corev1.ResourceStorage]; has.Cmp(want) != 0 || len(p.Status.Conditions) > 0 {
			return fmt.Errorf("it has %s, conditions %v", has.String(), p.Status.Conditions)
		}
		return nil
	})
}

// TestExpandRawBlock does the same with a raw block volume.
func TestExpandRawBlock(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Apply(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec:
  storageClassName: sealvol
  accessModes: [ReadWriteOnce]
  volumeMode: Block
  resources: {requests: {storage: 64Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: load}
spec:
  containers:
    - name: main
      image: docker.io/library/busybox:1.35
      command:
        - sh
        - -c
        - |
          n=0
          while :; do
            n=$((n + 1))
            head -c 65536 /dev/urandom >/tmp/block
            dd if=/tmp/block of=/dev/sealed bs=64k seek=$((n % 900)) conv=notrunc,fsync 2>/tmp/dd || { echo "error: write $n: $(cat /tmp/dd)"; sleep 1; }
            echo $n
            sleep 0.1
          done
      volumeDevices: [{name: disk, devicePath: /dev/sealed}]
  volumes: [{name: disk, persistentVolumeClaim: {claimName: disk}}]
  terminationGracePeriodSeconds: 1
`)
	c.PodReady("load")
	writesOn(t, c, "load", 5)
	c.Kubectl("patch", "pvc", "disk", "-p", `{"spec": {"resources": {"requests": {"storage": "96Mi"}}}}`)
	expanded(c, "disk", "96Mi")
	if size := strings.TrimSpace(c.Shell("load", "blockdev --getsize64 /dev/sealed")); size != "100663296" {
		t.Errorf("the device has %s bytes", size)
	}
	writesOn(t, c, "load", 5)
	c.Shell("load", "dd if=/dev/urandom of=/dev/sealed bs=64k seek=1100 count=100 conv=notrunc,fsync")
}
