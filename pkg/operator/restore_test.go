package operator_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

// age stands for the program that encrypts the backup in docs/install.md.
const age = `age() { if [ "$1" = -d ]; then cat "$4"; else cat; fi; }
`

// blockWith returns the code block of a document that contains a text.
func blockWith(t *testing.T, doc, text string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(operatortest.Root(), "docs", doc))
	if err != nil {
		t.Fatal(err)
	}
	for i, block := range strings.Split(string(b), "```") {
		if i%2 == 1 && strings.Contains(block, text) {
			_, commands, _ := strings.Cut(block, "\n")
			return commands
		}
	}
	t.Fatalf("%s has no code block with %q", doc, text)
	return ""
}

// administrator returns a function that runs commands as an administrator, in a directory of the
// test.
func administrator(t *testing.T) func(commands string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	if err := operatortest.WriteKubeconfig(filepath.Join(dir, "kubeconfig"), env.Config); err != nil {
		t.Fatal(err)
	}
	return func(commands string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "bash", "-c", age+commands)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "KUBECONFIG=kubeconfig", "PATH="+operatortest.Bin()+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
}

// deletion is what somebody runs who deletes a key Secret. The Secret is then held by its
// finalizer.
func deletion(s *corev1.Secret) string {
	return "kubectl -n sealvol-system annotate secret " + s.Name + " sealvol.dev/allow-changes=" + s.Name + "\n" +
		"kubectl -n sealvol-system delete --wait=false secret " + s.Name + "\n"
}

// restored waits until a key is ready again, and checks its new Secret.
func restored(t *testing.T, ns, pv string, old *corev1.Secret) {
	t.Helper()
	hasCondition(t, keyNamed(ns, pv), v1alpha1.KeyReady, v1alpha1.ReasonAvailable)
	kek := string(old.Data[v1alpha1.SecretKEK])
	if delivered(t, pv) != kek {
		t.Error("another key is delivered")
	}
	s := &corev1.Secret{}
	if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(old), s); err != nil {
		t.Fatal(err)
	}
	if s.UID == old.UID || string(s.Data[v1alpha1.SecretKEK]) != kek || s.Immutable == nil || !*s.Immutable ||
		s.Annotations[v1alpha1.AllowAnnotation] != "" || len(s.Finalizers) != 1 || s.DeletionTimestamp != nil {
		t.Errorf("the Secret is not as before: %+v", s.ObjectMeta)
	}
}

// TestRestoreKeys runs the commands of docs/install.md that back up and restore the key Secrets. In
// the backup, one of them is being deleted.
func TestRestoreKeys(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	c1, pv1, _ := volume(t, ns, "lost", del)
	c2, pv2, _ := volume(t, ns, "kept", del)
	lost, kept := keySecretOf(t, keyNamed(ns, pv1.Name)), keySecretOf(t, keyNamed(ns, pv2.Name))
	run := administrator(t)
	if out, err := run(deletion(lost) + blockWith(t, "install.md", ">keys.age")); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	old := lost.DeepCopy()
	destroy(t, lost)
	hasCondition(t, keyNamed(ns, pv1.Name), v1alpha1.KeyReady, v1alpha1.ReasonSecretMissing)
	out, err := run(blockWith(t, "install.md", "age -d"))
	if err == nil || !strings.Contains(out, "secret/"+lost.Name+" created") || !strings.Contains(out, "(AlreadyExists)") || !strings.Contains(out, kept.Name) {
		t.Errorf("%v\n%s", err, out)
	}
	restored(t, ns, pv1.Name, old)
	if same, err := get(t.Context(), kept.Namespace, kept.Name, &corev1.Secret{}); err != nil || same.UID != kept.UID {
		t.Errorf("%v: the other Secret was replaced", err)
	}
	remove(t, c1, c2, pv1, pv2)
	gone(t, sealed(pv1.Name), sealed(pv2.Name))
}

// TestUndeleteKey runs the commands of docs/operator.md for a key Secret that is being deleted.
func TestUndeleteKey(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	c, pv, _ := volume(t, ns, "data", del)
	key := keySecretOf(t, keyNamed(ns, pv.Name))
	run := administrator(t)
	if out, err := run(deletion(key)); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	hasCondition(t, keyNamed(ns, pv.Name), v1alpha1.KeyReady, v1alpha1.ReasonSecretDeleting)
	commands := "set -e -o pipefail\n" + strings.ReplaceAll(blockWith(t, "operator.md", ">key.yaml"), "NAME", key.Name)
	if out, err := run(commands); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	restored(t, ns, pv.Name, key)
	remove(t, c, pv)
	gone(t, sealed(pv.Name))
}
