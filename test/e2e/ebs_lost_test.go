//go:build e2e_ebs

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// TestEBSControllerDies: the controller is killed while EC2 creates a volume, and again while EC2
// attaches it. Another controller continues; there is one volume, attached once.
func TestEBSControllerDies(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Apply(claim("data", "1Gi"))
	var pvc corev1.PersistentVolumeClaim
	if err := c.Client().Get(c.Context(), client.ObjectKey{Namespace: c.Namespace, Name: "data"}, &pvc); err != nil {
		t.Fatal(err)
	}
	name := "pvc-" + string(pvc.UID)
	making, attaching := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { ec2.SetFault(nil) })
	ec2.SetFault(slowly(name, making, attaching))
	c.Apply(podOn(nodeNames[0], "app", "data", idle))
	for _, step := range []struct {
		begun  <-chan struct{}
		leader string
	}{{making, "csi-sealvol-dev"}, {attaching, "external-attacher-leader-csi-sealvol-dev"}} {
		select {
		case <-step.begun:
		case <-time.After(cluster.Timeout):
			t.Fatalf("%s has nothing done by EC2", step.leader)
		}
		killLeader(c, step.leader)
	}
	c.PodReady("app")
	c.Shell("app", "echo mine >/data/note; sync /data/note")
	if same := named(name); len(same) != 1 || !slices.Equal(same[0].Instances, []string{instances[0].ID}) {
		t.Errorf("%+v", same)
	}
	if err := ec2.Consistent(); err != nil {
		t.Error(err)
	}
	id := at(t, c, "data").ID
	c.Kubectl("delete", "pod,pvc", "--all", "--wait=false")
	deleted(c, id)
}

// slowly makes EC2 delay the first calls that create and attach a volume, and reports when they
// arrive.
func slowly(name string, making, attaching chan<- struct{}) func(ec2test.Call) ec2test.Fault {
	var first, second sync.Once
	return func(c ec2test.Call) (f ec2test.Fault) {
		late := func(came chan<- struct{}) func() {
			return func() {
				f.Wait = 3 * time.Second
				close(came)
			}
		}
		switch {
		case c.Action == "CreateVolume" && c.Params.Get("DryRun") == "" && strings.Contains(c.Params.Encode(), name):
			first.Do(late(making))
		case c.Action == "AttachVolume" && slices.ContainsFunc(named(name), func(v ec2test.Volume) bool { return v.ID == c.Params.Get("VolumeId") }):
			second.Do(late(attaching))
		}
		return f
	}
}

// named returns the volumes of a name.
func named(name string) (all []ec2test.Volume) {
	for _, v := range ec2.Volumes() {
		if v.Tags["csi.sealvol.dev/name"] == name {
			all = append(all, v)
		}
	}
	return all
}

// killLeader kills the pod that leads a sidecar.
func killLeader(c *cluster.Cluster, lease string) {
	var holder string
	c.Eventually(cluster.Timeout, func() error {
		var l coordinationv1.Lease
		if err := c.Client().Get(c.Context(), client.ObjectKey{Namespace: c.System, Name: lease}, &l); err != nil {
			return err
		}
		if l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity == "" {
			return errors.New("nobody leads")
		}
		holder = *l.Spec.HolderIdentity
		return nil
	})
	c.Kubectl("-n", c.System, "delete", "pod", holder, "--grace-period=0", "--force")
}

// database writes all the time on one node, until its template is patched.
const database = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 1
  selector: {matchLabels: {app: db}}
  updateStrategy: {type: OnDelete}
  template:
    metadata: {labels: {app: db}}
    spec:
      nodeSelector: {kubernetes.io/hostname: %s}
      terminationGracePeriodSeconds: 1
      containers:
        - name: main
          image: docker.io/library/busybox:1.35
          command: [sh, -c, %q]
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        storageClassName: sealvol
        accessModes: [ReadWriteOnce]
        resources: {requests: {storage: 1Gi}}
`

// runsOn waits until a pod is ready on a node.
func runsOn(c *cluster.Cluster, pod, node string) {
	cluster.Wait(c, &corev1.Pod{}, pod, cluster.Timeout, func(p *corev1.Pod) error {
		if p.Spec.NodeName != node || len(p.Status.ContainerStatuses) != 1 || !p.Status.ContainerStatuses[0].Ready {
			return fmt.Errorf("on %q, %s", p.Spec.NodeName, p.Status.Phase)
		}
		return nil
	})
}

// TestEBSNodeLost: a node is disconnected while a pod writes. When it is marked out of service,
// Kubernetes detaches the volume and runs the pod elsewhere, with everything that was synced and
// with the anchor. The lost node keeps running with the pod and the mount. When it is back, it does
// no harm and can have volumes again.
func TestEBSNodeLost(t *testing.T) {
	c := cluster.New(t)
	lost := nodeNames[1]
	c.Apply(fmt.Sprintf(database, lost, writes))
	c.PodReady("db-0")
	c.Shell("db-0", "head -c 5000000 /dev/urandom >/data/precious; sha256sum /data/precious >/data/sum; sync /data/precious /data/sum")
	writesOn(t, c, "db-0", 5)
	volume := at(t, c, "data-db-0")
	anchor := follows(t, c, "data-db-0", lost, 0)
	c.Kubectl("patch", "statefulset", "db", "-p", `{"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "`+nodeNames[0]+`"}}}}}`)

	t.Cleanup(func() { c.Cut(lost, false) })
	c.Cut(lost, true)
	notReady(c, lost)
	t.Cleanup(func() { untaint(t, c, lost) })
	c.Kubectl("taint", "node", lost, corev1.TaintNodeOutOfService+"=nodeshutdown:NoExecute")
	runsOn(c, "db-0", nodeNames[0])
	c.Shell("db-0", "sha256sum -c /data/sum; ls /data/load.*")
	follows(t, c, "data-db-0", nodeNames[0], anchor)
	if v := at(t, c, "data-db-0"); v.ID != volume.ID || !slices.Equal(v.Instances, []string{instances[0].ID}) {
		t.Errorf("%+v", v)
	}

	// The node is back: its kubelet ends the old pod, and unmounts the volume that it no longer
	// has.
	c.Shell("db-0", "head -c 5000000 /dev/urandom >/data/precious; sha256sum /data/precious >/data/sum; sync /data/precious /data/sum")
	c.Cut(lost, false)
	cluster.Wait(c, &corev1.Node{}, lost, cluster.Timeout, func(n *corev1.Node) error {
		for _, x := range n.Status.Conditions {
			if x.Type == corev1.NodeReady && x.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return errors.New("it is not ready")
	})
	untaint(t, c, lost)
	c.Eventually(cluster.Timeout, func() error {
		for _, m := range cluster.Mounts() {
			if strings.HasSuffix(lost, "-"+m.Node) && strings.Contains(m.Source, volume.ID) {
				return fmt.Errorf("it still has %+v", m)
			}
		}
		return nil
	})
	writesOn(t, c, "db-0", 5)
	c.Shell("db-0", "sha256sum -c /data/sum")
	anchor = follows(t, c, "data-db-0", nodeNames[0], anchor)

	// The node gets the volume again.
	c.Kubectl("patch", "statefulset", "db", "-p", `{"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "`+lost+`"}}}}}`)
	c.Kubectl("delete", "pod", "db-0", "--wait=false")
	runsOn(c, "db-0", lost)
	c.Shell("db-0", "sha256sum -c /data/sum")
	follows(t, c, "data-db-0", lost, anchor)
	pv := c.Volume("data-db-0").Name
	c.Kubectl("delete", "statefulset", "db", "--wait=false")
	c.Kubectl("delete", "pvc", "--all", "--wait=false")
	c.Gone(&v1alpha1.SealedVolume{}, pv)
	deleted(c, volume.ID)
}

// notReady marks a disconnected node as Kubernetes would after a minute.
func notReady(c *cluster.Cluster, node string) {
	c.Kubectl("patch", "node", node, "--subresource=status", "--type=strategic", "-p",
		`{"status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status."}]}}`)
}

// untaint makes a node available again.
func untaint(t *testing.T, c *cluster.Cluster, node string) {
	t.Helper()
	var n corev1.Node
	if err := c.Client().Get(c.Context(), client.ObjectKey{Name: node}, &n); err != nil {
		t.Error(err)
	}
	if slices.ContainsFunc(n.Spec.Taints, func(x corev1.Taint) bool { return x.Key == corev1.TaintNodeOutOfService }) {
		c.Kubectl("taint", "node", node, corev1.TaintNodeOutOfService+"-")
	}
}
