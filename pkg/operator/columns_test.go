package operator_test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

// TestColumns: kubectl prints these columns; docs/operator.md shows the same.
func TestColumns(t *testing.T) {
	start(t, nil)
	ns := namespace(t)
	_, pv, _ := volume(t, ns, "data", del)
	vk, sv := keyNamed(ns, pv.Name), sealed(pv.Name)
	hasCondition(t, vk, v1alpha1.KeyReady, v1alpha1.ReasonAvailable)
	eventually(t, func() error {
		if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(sv), sv); err != nil {
			return err
		}
		sv.Status.Node, sv.Status.Health = "node-a", v1alpha1.HealthHealthy
		meta.SetStatusCondition(&sv.Status.Conditions, metav1.Condition{Type: v1alpha1.VolumeHealthy, Status: metav1.ConditionTrue, Reason: "AsExpected"})
		sv.Status.Usage = &v1alpha1.VolumeUsage{TotalBytes: 10 << 30, UsedBytes: 3 << 29, AvailableBytes: 17 << 29, Summary: "1.5GiB/10GiB (15%)"}
		anchored(sv, 412, 1, "a")
		return env.Client.Status().Update(t.Context(), sv)
	})
	eventually(t, func() error {
		err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(sv), sv)
		if err == nil && sv.Status.Phase != v1alpha1.PhaseStaged {
			err = errStays
		}
		return err
	})
	eventually(t, func() error {
		err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(vk), vk)
		if err == nil && vk.Status.Volumes != 1 {
			err = errStays
		}
		return err
	})
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := operatortest.WriteKubeconfig(path, env.Config); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, head, row string }{
		{"get vk -n " + ns, "NAME READY REASON VERSION VOLUMES CLAIM AGE", pv.Name + " True Available 1 1 data"},
		{"get vkey -o wide -n " + ns, "NAME READY REASON VERSION VOLUMES CLAIM AGE FINGERPRINT POLICY MESSAGE", pv.Name + ` True Available 1 1 data \S+ [0-9a-f]{32} Delete volumes can use the key`},
		{"get sv " + pv.Name, "NAME NAMESPACE CLAIM PHASE HEALTH REASON NODE USED KEY AGE", pv.Name + " " + ns + ` data Staged Healthy AsExpected node-a 1\.5GiB/10GiB \(15%\) Delivered`},
		{"get svol -o wide " + pv.Name, "NAME NAMESPACE CLAIM PHASE HEALTH REASON NODE USED KEY AGE GENERATION ANCHORED KEYVERSION VOLUMEKEY MESSAGE", ` Delivered \S+ 412 (\S+ )?1 ` + pv.Name},
	} {
		cmd := exec.Command(filepath.Join(operatortest.Bin(), "kubectl"), append([]string{"--kubeconfig", path}, strings.Fields(c.args)...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", c.args, err, out)
		}
		t.Logf("%s:\n%s", c.args, out)
		squeezed := regexp.MustCompile(` +`).ReplaceAllString(string(out), " ")
		if !strings.HasPrefix(squeezed, c.head) || !regexp.MustCompile(c.row).MatchString(squeezed) {
			t.Errorf("kubectl %s:\n%s", c.args, out)
		}
	}
}
