//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// TestNodePluginGone: pods keep working while there is no node plugin, and after it is back. What
// needs the plugin waits, and then completes.
func TestNodePluginGone(t *testing.T) {
	c := cluster.New(t)
	c.Apply(claim("data", "64Mi") + pod("load", "data", writes))
	c.PodReady("load")
	writesOn(t, c, "load", 5)

	plugin := func(nodes string) {
		t.Helper()
		c.Kubectl("-n", c.System, "patch", "daemonset", "sealvol-node", "--type=merge", "-p", `{"spec": {"template": {"spec": {"nodeSelector": `+nodes+`}}}}`)
	}
	plugin(`{"sealvol.dev/nowhere": "true"}`)
	t.Cleanup(func() { c.Kubectl("-n", c.System, "rollout", "status", "daemonset", "sealvol-node", "--timeout=2m") })
	t.Cleanup(func() { plugin(`{"sealvol.dev/nowhere": null}`) })
	c.Eventually(cluster.Timeout, func() error { return plugins(c, 0) })
	watched := func(health v1alpha1.Health, reason string) {
		t.Helper()
		cluster.Wait(c, &v1alpha1.SealedVolume{}, c.Volume("data").Name, cluster.Timeout, func(v *v1alpha1.SealedVolume) error {
			x := meta.FindStatusCondition(v.Status.Conditions, v1alpha1.VolumeHealthy)
			if x == nil || v.Status.Health != health || x.Reason != reason {
				return fmt.Errorf("it is said to be %s, %+v", v.Status.Health, x)
			}
			return nil
		})
	}
	watched(v1alpha1.HealthUnknown, v1alpha1.ReasonNotWatched)
	writesOn(t, c, "load", 20)
	// The pod waits. When the kubelet reports this depends on what it knew of the plugin's end: at
	// once, or after the two-minute timeout of its call.
	c.Apply(pod("late", "data", idle))
	writesOn(t, c, "load", 5)
	var late corev1.Pod
	if err := c.Client().Get(c.Context(), client.ObjectKey{Namespace: c.Namespace, Name: "late"}, &late); err != nil || late.Status.Phase != corev1.PodPending {
		t.Errorf("without a node plugin the pod is %q: %v", late.Status.Phase, err)
	}

	plugin(`{"sealvol.dev/nowhere": null}`)
	c.PodReady("late")
	watched(v1alpha1.HealthHealthy, "AsExpected")
	c.Shell("late", "ls /data/load.*")
	writesOn(t, c, "load", 5)
}

// plugins tells whether exactly n pods of the node plugin exist.
func plugins(c *cluster.Cluster, want int) error {
	var list corev1.PodList
	if err := c.Client().List(c.Context(), &list, client.InNamespace(c.System), client.MatchingLabels{"app.kubernetes.io/component": "node"}); err != nil {
		return err
	}
	if len(list.Items) != want {
		return fmt.Errorf("there are %d node plugins", len(list.Items))
	}
	return nil
}

// TestUpgrade: a new version of Sealvol is rolled out to the nodes while pods write. They notice
// nothing: no mount server ends.
func TestUpgrade(t *testing.T) {
	c := cluster.New(t)
	var all string
	for i := range 2 {
		all += claim(fmt.Sprintf("data-%d", i), "64Mi") + pod(fmt.Sprintf("load-%d", i), fmt.Sprintf("data-%d", i), writes)
	}
	c.Apply(all)
	servers := map[string]int{}
	for i := range 2 {
		p := c.PodReady(fmt.Sprintf("load-%d", i))
		writesOn(t, c, p.Name, 5)
		servers[p.Name] = c.Server(p.Spec.NodeName, c.Volume(fmt.Sprintf("data-%d", i)).Spec.CSI.VolumeHandle)
	}

	upgrade := func(values string) {
		t.Helper()
		c.Helm("upgrade", "sealvol", "../../charts/sealvol", "--namespace", c.System, "--reuse-values", "--set", values, "--wait=legacy", "--timeout", "3m")
	}
	t.Cleanup(func() { upgrade("logLevel=info") })
	upgrade("logLevel=debug")
	var ds appsv1.DaemonSet
	c.Eventually(cluster.Timeout, func() error {
		if err := c.Client().Get(c.Context(), client.ObjectKey{Namespace: c.System, Name: "sealvol-node"}, &ds); err != nil {
			return err
		}
		if s := ds.Status; s.UpdatedNumberScheduled != s.DesiredNumberScheduled || s.NumberReady != s.DesiredNumberScheduled {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if ds.Status.ObservedGeneration < 2 {
		t.Error("the node plugin was not replaced")
	}
	for i := range 2 {
		p := c.PodReady(fmt.Sprintf("load-%d", i))
		writesOn(t, c, p.Name, 5)
		if now := c.Server(p.Spec.NodeName, c.Volume(fmt.Sprintf("data-%d", i)).Spec.CSI.VolumeHandle); now != servers[p.Name] {
			t.Errorf("the mount server of %s was %d and is %d", p.Name, servers[p.Name], now)
		}
		if p.Status.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("pod %s was restarted", p.Name)
		}
	}

	// The mounter is not replaced automatically, because mount servers end with it. Users can see
	// which nodes still run the old version.
	if err := c.Client().Get(c.Context(), client.ObjectKey{Namespace: c.System, Name: "sealvol-mounter"}, &ds); err != nil {
		t.Fatal(err)
	}
	if ds.Spec.UpdateStrategy.Type != appsv1.OnDeleteDaemonSetStrategyType || ds.Status.UpdatedNumberScheduled != 0 {
		t.Errorf("%s: %+v", ds.Spec.UpdateStrategy.Type, ds.Status)
	}
}

// TestMountServerDies: the mount server of a volume is killed. The pod gets an error and does not
// hang, and its claim's events say what happened. Once its liveness probe has restarted its
// container, the pod has the volume again, with everything that it had synced.
func TestMountServerDies(t *testing.T) {
	c := cluster.New(t)
	c.Apply(claim("data", "64Mi") + `
---
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  containers:
    - name: main
      image: docker.io/library/busybox:1.35
      command: [sh, -c, "trap exit TERM; while :; do sleep 1; done"]
      livenessProbe:
        exec: {command: [ls, /data]}
        periodSeconds: 2
        timeoutSeconds: 10
        failureThreshold: 1
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
  terminationGracePeriodSeconds: 1
`)
	p := c.PodReady("app")
	c.Shell("app", "echo precious | dd of=/data/note conv=fsync")
	volume := c.Volume("data").Spec.CSI.VolumeHandle

	c.Kill(c.Server(p.Spec.NodeName, volume))
	if _, err := c.TryExec("app", "cat", "/data/note"); err == nil || !strings.Contains(err.Error(), "Transport endpoint is not connected") && !strings.Contains(err.Error(), "not found") {
		t.Errorf("right after: %v", err)
	}
	c.Event("PersistentVolumeClaim", "data", "Remounted: .*restart the containers")
	again := func(restarts int32) {
		t.Helper()
		cluster.Wait(c, &corev1.Pod{}, "app", cluster.Timeout, func(p *corev1.Pod) error {
			if s := p.Status.ContainerStatuses; len(s) == 0 || s[0].RestartCount < restarts || !s[0].Ready {
				return errors.New("it was not restarted yet")
			}
			return nil
		})
		c.Eventually(cluster.Timeout, func() error {
			_, err := c.TryExec("app", "grep", "precious", "/data/note")
			return err
		})
	}
	again(1)

	// The mounter is replaced, as in an upgrade without draining the node: its mount servers write
	// all their data and end.
	c.Shell("app", "echo not synced >/data/late")
	var list corev1.PodList
	if err := c.Client().List(c.Context(), &list, client.InNamespace(c.System), client.MatchingLabels{"app.kubernetes.io/component": "mounter"}); err != nil {
		t.Fatal(err)
	}
	for _, m := range list.Items {
		if m.Spec.NodeName == p.Spec.NodeName {
			c.Kubectl("-n", c.System, "delete", "pod", m.Name)
		}
	}
	again(2)
	c.Shell("app", "grep 'not synced' /data/late")
}
