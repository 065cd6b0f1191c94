//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// TestWrongKey: volumes of a class whose keys are in the users' own Secrets. If the Secret is
// missing, malformed or has another key, the pod waits and its events say why, without revealing
// the key. With the right key it starts.
func TestWrongKey(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	class := c.Namespace
	t.Cleanup(func() { c.Kubectl("delete", "storageclass", class) })
	allow := func(namespaces string) { // volumes may use Secrets of these namespaces
		c.Helm("upgrade", "sealvol", "../../charts/sealvol", "--namespace", c.System, "--reuse-values", "--set-json", "node.secretNamespaces="+namespaces, "--wait=legacy", "--timeout", "3m")
	}
	allow(fmt.Sprintf("[%q]", c.Namespace))
	t.Cleanup(func() { allow("[]") })
	secret := "secret-name: ${pvc.name}\n  csi.storage.k8s.io/%[1]s-secret-namespace: ${pvc.namespace}\n"
	c.Apply(fmt.Sprintf(`
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: %s}
provisioner: csi.sealvol.dev
volumeBindingMode: WaitForFirstConsumer
parameters:
`, class) + fmt.Sprintf("  csi.storage.k8s.io/%[1]s-"+secret, "node-stage") + fmt.Sprintf("  csi.storage.k8s.io/%[1]s-"+secret, "node-publish") +
		strings.Replace(claim("data", "64Mi"), "sealvol", class, 1) + pod("app", "data", idle))
	right, wrong := strings.Repeat("0123456789abcdef", 4), strings.Repeat("fedcba9876543210", 4)
	keyIs := func(kek string) {
		t.Helper()
		c.Apply(fmt.Sprintf("{apiVersion: v1, kind: Secret, metadata: {name: data}, stringData: {kek: %q}}", kek))
	}

	c.Event("Pod", "app", `FailedMount: .*secrets? "data" not found`)
	keyIs("not a key")
	c.Event("Pod", "app", `FailedMount: .*kek.*64 hexadecimal digits`)
	keyIs(right)
	c.PodReady("app")
	c.Shell("app", "echo precious >/data/note")
	c.DeletePod("app")

	keyIs(wrong)
	c.Apply(pod("app", "data", idle))
	c.Event("Pod", "app", `FailedMount: .*key does not open`)
	keyIs(right)
	c.PodReady("app")
	c.Shell("app", "grep precious /data/note")
	cluster.Wait(c, &v1alpha1.SealedVolume{}, c.Volume("data").Name, cluster.Timeout, func(v *v1alpha1.SealedVolume) error {
		if r := reason(v.Status.Conditions, v1alpha1.VolumeKeyReady); r != v1alpha1.ReasonExternal {
			return fmt.Errorf("KeyReady: %s", r)
		}
		return nil
	})
}

// reason returns the reason of a condition.
func reason(all []metav1.Condition, kind string) string {
	if c := meta.FindStatusCondition(all, kind); c != nil {
		return c.Reason
	}
	return ""
}

// TestLostKey: the Secret with a volume's key cannot be deleted or edited by mistake. If it is
// deleted or replaced on purpose, everything that needs it reports that, and no new key is created
// until the Secret is restored from a backup.
func TestLostKey(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Apply(claim("data", "64Mi") + pod("app", "data", idle))
	c.PodReady("app")
	c.Shell("app", "echo precious >/data/note; sync")
	sv := sealed(t, c, "data")
	key, name := sv.Spec.Key, sv.Spec.Key.SecretName
	inSystem := func(args ...string) string {
		t.Helper()
		return c.Kubectl(append([]string{"-n", c.System}, args...)...)
	}
	backup := &corev1.Secret{}
	if err := c.Client().Get(c.Context(), client.ObjectKey{Namespace: c.System, Name: name}, backup); err != nil {
		t.Fatal(err)
	}
	backup.ObjectMeta = metav1.ObjectMeta{Namespace: c.System, Name: name} // the minimum that a backup may contain

	// By mistake.
	if out := c.KubectlFails("-n", c.System, "delete", "secret", name, "--wait=false"); !strings.Contains(out, "Without the key, the volume is lost") {
		t.Error(out)
	}
	if out := c.KubectlFails("-n", c.System, "delete", "secret", sv.Name, "--wait=false"); !strings.Contains(out, "holds the key of a Sealvol volume") {
		t.Error(out)
	}
	c.KubectlFails("-n", c.System, "patch", "secret", name, "-p", `{"data": {"kek": "AAAA"}}`)

	// On purpose: deletion is first blocked by the finalizer, and then completes.
	inSystem("annotate", "secret", name, "sealvol.dev/allow-changes="+name)
	inSystem("delete", "secret", name, "--wait=false")
	c.Event("VolumeKey", key.Name, `KeySecretBeingDeleted: .*Save the Secret`)
	inSystem("patch", "secret", name, "--type=merge", "-p", `{"metadata": {"finalizers": null}}`)
	c.Event("VolumeKey", key.Name, `KeySecretMissing: .*Restore it from a backup`)
	c.Event("PersistentVolumeClaim", "data", `KeySecretMissing: .*Restore it from a backup`)
	c.Shell("app", "grep precious /data/note") // open volumes stay usable

	// The delivery Secret is deleted as well, and the operator is restarted.
	inSystem("annotate", "secret", sv.Name, "sealvol.dev/allow-changes="+sv.Name)
	inSystem("delete", "secret", sv.Name)
	c.DeletePod("app")
	c.Apply(pod("app", "data", idle))
	c.Event("Pod", "app", `FailedMount: .*secrets? ".*" not found`)

	// A Secret with another key does not count.
	other := backup.DeepCopy()
	other.Data = map[string][]byte{v1alpha1.SecretKEK: []byte(strings.Repeat("00112233", 8))}
	create(t, c, other)
	c.Event("VolumeKey", key.Name, `KeySecretAltered: .*does not hold the original key`)
	c.Event("PersistentVolumeClaim", "data", `KeySecretAltered: `)
	if err := c.Client().Get(c.Context(), client.ObjectKey{Namespace: c.System, Name: sv.Name}, &corev1.Secret{}); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("a key was delivered that is not the volume's: %v", err)
	}
	inSystem("delete", "secret", name)
	c.Event("VolumeKey", key.Name, `KeySecretMissing: `)

	create(t, c, backup)
	c.Event("VolumeKey", key.Name, `Available: `)
	c.PodReady("app")
	c.Shell("app", "grep precious /data/note")
	if now := sealed(t, c, "data").Spec.Key; *now != *key {
		t.Errorf("the key was %+v and is %+v", key, now)
	}
}

func create(t *testing.T, c *cluster.Cluster, s *corev1.Secret) {
	t.Helper()
	if err := c.Client().Create(c.Context(), s.DeepCopy()); err != nil {
		t.Fatal(err)
	}
}

// TestEditedDelivery: the Secret that delivers a key to the kubelet is only a copy. If it is edited
// or deleted, it is restored, and the claim's events report that.
func TestEditedDelivery(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Apply(claim("data", "64Mi") + pod("app", "data", idle))
	c.PodReady("app")
	sv := sealed(t, c, "data")
	var before corev1.Secret
	at := client.ObjectKey{Namespace: c.System, Name: sv.Name}
	if err := c.Client().Get(c.Context(), at, &before); err != nil {
		t.Fatal(err)
	}
	edit, err := json.Marshal(map[string]any{"data": map[string]string{"kek": base64.StdEncoding.EncodeToString([]byte(strings.Repeat("00112233", 8)))}})
	if err != nil {
		t.Fatal(err)
	}
	if out := c.KubectlFails("-n", c.System, "patch", "secret", sv.Name, "-p", string(edit)); !strings.Contains(out, "Only the operator may change its data") {
		t.Error(out)
	}
	c.Kubectl("-n", c.System, "annotate", "secret", sv.Name, "sealvol.dev/allow-changes="+sv.Name)
	c.Kubectl("-n", c.System, "patch", "secret", sv.Name, "-p", string(edit))
	c.Event("PersistentVolumeClaim", "data", `DeliveryRestored: .*holds the volume's key again`)
	var after corev1.Secret
	if err := c.Client().Get(c.Context(), at, &after); err != nil {
		t.Fatal(err)
	}
	if string(after.Data["kek"]) != string(before.Data["kek"]) {
		t.Error("the key is another")
	}
	c.DeletePod("app")
	c.Apply(pod("app", "data", idle))
	c.PodReady("app")
}

// TestKeyInUse: a VolumeKey of a team for several volumes is not deleted while one of them needs
// it, and its event names that volume. After that it is deleted automatically.
func TestKeyInUse(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	named := strings.NewReplacer("metadata: {name: data}", "metadata: {name: data, annotations: {sealvol.dev/volume-key: team}}")
	c.Apply("{apiVersion: sealvol.dev/v1alpha1, kind: VolumeKey, metadata: {name: team}}\n" + named.Replace(claim("data", "64Mi")) + pod("app", "data", idle))
	c.PodReady("app")
	left := remainsOf(t, c, c.PodReady("app").Spec.NodeName, "data")
	c.Kubectl("delete", "volumekey", "team", "--wait=false")
	c.Event("VolumeKey", "team", `KeyInUse: .*`+c.Volume("data").Name)
	c.DeletePod("app")
	c.Apply(pod("app", "data", idle)) // it still works
	c.PodReady("app")

	c.Kubectl("delete", "pod", "app", "--wait=false")
	c.Kubectl("delete", "pvc", "data", "--wait=false")
	c.Gone(&v1alpha1.VolumeKey{}, "team")
	left.gone()
}
