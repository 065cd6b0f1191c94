//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// TestUninstall: Sealvol is uninstalled and installed again. Volumes, keys and their objects stay,
// as docs/install.md says. Pods wait, and find their data when Sealvol is back.
func TestUninstall(t *testing.T) {
	c := cluster.New(t)
	c.Apply(claim("data", "64Mi") + pod("app", "data", idle))
	node := c.PodReady("app").Spec.NodeName
	c.Shell("app", "echo precious >/data/note")
	key := sealed(t, c, "data").Spec.Key
	// While a pod uses a volume, helm refuses, names the pod, and removes nothing.
	out, err := c.TryHelm("uninstall", "sealvol", "--namespace", c.System, "--wait", "--timeout", "3m")
	if text := fmt.Sprint(out, err); err == nil || !strings.Contains(text, c.Namespace+"/data is used by pod app") {
		t.Fatalf("helm uninstall with a volume in use: %s", text)
	}
	if err := c.Client().Get(c.Context(), client.ObjectKey{Name: "csi.sealvol.dev"}, &storagev1.CSIDriver{}); err != nil {
		t.Fatal(err)
	}
	c.Shell("app", "grep precious /data/note")
	// Helm considers the release half uninstalled; docs/install.md says how to continue.
	var history []struct{ Revision int }
	if err := json.Unmarshal([]byte(c.Helm("history", "sealvol", "--namespace", c.System, "--max", "1", "--output", "json")), &history); err != nil || len(history) != 1 {
		t.Fatal(history, err)
	}
	c.Helm("rollback", "sealvol", fmt.Sprint(history[0].Revision), "--namespace", c.System)
	c.Helm("upgrade", "sealvol", "../../charts/sealvol", "--namespace", c.System, "--reuse-values", "--timeout", "3m")
	c.Shell("app", "grep precious /data/note")
	// No volume may be in use: the mount servers end with the mounter, and the kubelet needs the
	// node plugin to unmount.
	c.DeletePod("app")
	cluster.Wait(c, &v1alpha1.SealedVolume{}, c.Volume("data").Name, cluster.Timeout, func(v *v1alpha1.SealedVolume) error {
		if v.Status.Phase != v1alpha1.PhaseAvailable {
			return fmt.Errorf("it is %s", v.Status.Phase)
		}
		return nil
	})

	install := append([]string{"upgrade", "--install", "sealvol", "../../charts/sealvol", "--namespace", c.System, "--create-namespace", "--wait", "--timeout", "3m"},
		strings.Fields(os.Getenv("E2E_HELM_ARGS"))...)
	t.Cleanup(func() { c.Helm(install...) }) // for other tests, whatever happens here
	c.Helm("uninstall", "sealvol", "--namespace", c.System, "--wait", "--timeout", "3m")
	c.Gone(&storagev1.CSIDriver{}, "csi.sealvol.dev")
	c.Gone(&storagev1.StorageClass{}, cluster.Class)

	c.Apply(pod("app", "data", idle))
	for what, o := range map[string]client.Object{
		"volume":     &corev1.PersistentVolume{ObjectMeta: c.Volume("data").ObjectMeta},
		"key Secret": secretNamed(c.System, key.SecretName),
		"delivery":   secretNamed(c.System, c.Volume("data").Name),
	} {
		if err := c.Client().Get(c.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := os.Stat(imageOf(c, node, "data")); err != nil {
		t.Error(err)
	}

	c.Helm(install...)
	c.PodReady("app")
	c.Shell("app", "grep precious /data/note")
	if now := sealed(t, c, "data").Spec.Key; *now != *key {
		t.Errorf("the key was %+v and is %+v", key, now)
	}
	var sv v1alpha1.SealedVolume
	if err := c.Client().Get(c.Context(), client.ObjectKey{Name: c.Volume("data").Name}, &sv); err != nil || sv.Status.Anchor == nil {
		t.Errorf("its anchor is gone: %v, %+v", err, sv.Status)
	}
}

// TestUninstallConfirmed: Sealvol is uninstalled although a pod uses a volume. Nothing watches the
// volume any more, and both the volume and its claim say so. After a new installation, Sealvol
// mounts the volume for a new pod, which finds what was synced.
func TestUninstallConfirmed(t *testing.T) {
	c := cluster.New(t)
	c.Apply(claim("data", "64Mi") + pod("app", "data", idle))
	c.PodReady("app")
	c.Shell("app", "echo precious >/data/note && sync /data/note")
	name := c.Volume("data").Name
	health := func(want v1alpha1.Health, reason string) {
		t.Helper()
		cluster.Wait(c, &v1alpha1.SealedVolume{}, name, cluster.Timeout, func(v *v1alpha1.SealedVolume) error {
			x := meta.FindStatusCondition(v.Status.Conditions, v1alpha1.VolumeHealthy)
			if x == nil || v.Status.Health != want || x.Reason != reason {
				return fmt.Errorf("it is said to be %s, %+v", v.Status.Health, x)
			}
			return nil
		})
	}
	health(v1alpha1.HealthHealthy, "AsExpected")
	install := append([]string{"upgrade", "--install", "sealvol", "../../charts/sealvol", "--namespace", c.System, "--create-namespace", "--wait", "--timeout", "3m"},
		strings.Fields(os.Getenv("E2E_HELM_ARGS"))...)
	t.Cleanup(func() { c.Helm(install...) }) // for other tests, whatever happens here
	c.Kubectl("annotate", "namespace", c.System, "sealvol.dev/uninstall=confirmed")
	c.Helm("uninstall", "sealvol", "--namespace", c.System, "--wait", "--timeout", "3m")
	health(v1alpha1.HealthUnknown, v1alpha1.ReasonUninstalled)
	if note := c.Event("PersistentVolumeClaim", "data", "Uninstalled"); !strings.Contains(note, name) {
		t.Error(note)
	}
	if left := c.Kubectl("get", "namespace", c.System, "-o", "jsonpath={.metadata.annotations}"); strings.Contains(left, "confirmed") {
		t.Error("the confirmation stays:", left)
	}
	c.Eventually(cluster.Timeout, func() error { return plugins(c, 0) })
	health(v1alpha1.HealthUnknown, v1alpha1.ReasonUninstalled) // the report of the stopping plugin does not replace it

	c.Helm(install...)
	c.DeletePod("app")
	c.Apply(pod("app", "data", idle))
	c.PodReady("app")
	c.Shell("app", "grep precious /data/note")
	health(v1alpha1.HealthHealthy, "AsExpected")
}

func secretNamed(namespace, name string) *corev1.Secret {
	s := &corev1.Secret{}
	s.Namespace, s.Name = namespace, name
	return s
}
