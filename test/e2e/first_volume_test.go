//go:build e2e

package e2e

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// TestFirstVolume is what every user does first: a pod writes files to a claim and is deleted, and
// another pod finds the files. The node's disk does not contain them as plaintext.
func TestFirstVolume(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Apply(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  storageClassName: sealvol
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 256Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: writer}
spec:
  containers:
    - name: main
      image: docker.io/library/busybox:1.35
      command: [sleep, infinity]
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
  terminationGracePeriodSeconds: 1
`)
	c.PodReady("writer")
	c.Shell("writer", `
		mkdir -p /data/a/deep/directory
		echo 'a secret that must not be on the disk' >/data/a/note
		cp /bin/busybox /data/a/deep/directory/
		ln -s ../note /data/a/deep/link
		head -c 20000000 /dev/urandom >/data/random
		cd /data && find . -type f -exec sha256sum {} + | sort >/data/sums
		sync`)
	c.DeletePod("writer")

	c.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  restartPolicy: Never
  containers:
    - name: main
      image: docker.io/library/busybox:1.35
      command: [sh, -ec, "cd /data; grep -v ' ./sums' sums | sha256sum -c; cat a/deep/link; a/deep/directory/busybox echo it runs"]
      volumeMounts: [{name: data, mountPath: /data, readOnly: true}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
`)
	node := c.PodSucceeded("reader").Spec.NodeName
	if out := c.Logs("reader"); !strings.Contains(out, "./random: OK") || !strings.Contains(out, "a secret that must not be on the disk") || !strings.Contains(out, "it runs") {
		t.Fatal(out)
	}

	image := imageOf(c, node, "data")
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 256<<20))
	if err != nil {
		t.Fatal(err)
	}
	for _, plain := range []string{"must not be on the disk", "BusyBox v1"} {
		if bytes.Contains(b, []byte(plain)) {
			t.Errorf("the image holds %q", plain)
		}
	}
}
