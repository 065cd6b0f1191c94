package operator_test

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

// podOf creates a pod on a node with volumes of any kind.
func podOf(t *testing.T, ns, name, node string, volumes ...corev1.Volume) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{Spec: corev1.PodSpec{NodeName: node, Volumes: volumes, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	p.Namespace, p.Name = ns, name
	create(t, p)
	return p
}

func claimVolume(name string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}
}

// onNode creates a SealedVolume with a phase that a node has reported.
func onNode(t *testing.T, ns, name, claim, node string, phase v1alpha1.Phase) *v1alpha1.SealedVolume {
	t.Helper()
	sv := &v1alpha1.SealedVolume{}
	sv.Name = name
	sv.Spec.ClaimRef = &v1alpha1.VolumeClaim{Namespace: ns, Name: claim, UID: "u"}
	create(t, sv)
	was := sv.DeepCopy()
	sv.Status.Phase, sv.Status.Node = phase, node
	if err := env.Client.Status().Patch(t.Context(), sv, client.MergeFrom(was)); err != nil {
		t.Fatal(err)
	}
	return sv
}

// released creates a PersistentVolume whose claim was deleted, and a claim of the same name for a
// volume of another driver.
func released(t *testing.T, ns, claim string) {
	t.Helper()
	c := operatortest.Claim(ns, claim)
	c.UID = "deleted"
	pv := operatortest.Volume(c, "node-a", corev1.PersistentVolumeReclaimRetain)
	create(t, pv)
	pv.Status.Phase = corev1.VolumeReleased
	if err := env.Client.Status().Update(t.Context(), pv); err != nil {
		t.Fatal(err)
	}
	create(t, operatortest.Claim(ns, claim))
}

// InUse lists the volumes of running pods and staged volumes. It omits volumes of other drivers, of
// terminated pods and without a PersistentVolume or a claim. What the nodes report counts, even if
// the operator does not run.
func TestInUse(t *testing.T) {
	ns := namespace(t)
	names := map[string]string{}
	for _, claim := range []string{"used", "done", "idle", "staged", "pod-scratch", "foreign", "early", "kept"} {
		c := operatortest.Claim(ns, claim)
		create(t, c)
		pv := operatortest.Volume(c, "node-a", corev1.PersistentVolumeReclaimDelete)
		if claim == "foreign" {
			pv.Spec.CSI.Driver = "other.example.com"
		}
		create(t, pv)
		names[claim] = pv.Name
	}
	podOf(t, ns, "app", "node-a", claimVolume("used"), claimVolume("foreign"))
	done := podOf(t, ns, "job", "node-a", claimVolume("done"))
	done.Status.Phase = corev1.PodSucceeded
	if err := env.Client.Status().Update(t.Context(), done); err != nil {
		t.Fatal(err)
	}
	podOf(t, ns, "waits", "", claimVolume("idle"))
	podOf(t, ns, "pod", "node-b", corev1.Volume{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
		VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: operatortest.Claim(ns, "x").Spec}}}})
	onNode(t, ns, names["staged"], "staged", "node-c", v1alpha1.PhaseStaged)
	onNode(t, ns, names["early"], "early", "node-c", v1alpha1.PhaseAvailable)
	onNode(t, ns, names["kept"], "kept", "node-c", v1alpha1.PhaseRetained)
	released(t, ns, "replaced")
	podOf(t, ns, "other", "node-a", claimVolume("replaced"))

	all, err := operator.InUse(t.Context(), env.Client)
	if err != nil {
		t.Fatal(err)
	}
	got := slices.DeleteFunc(all, func(s string) bool { return !strings.Contains(s, ns) })
	want := []string{
		names["used"] + " of claim " + ns + "/used is used by pod app on node node-a",
		names["staged"] + " of claim " + ns + "/staged is staged on node node-c",
		names["early"] + " of claim " + ns + "/early is staged on node node-c",
		names["pod-scratch"] + " of claim " + ns + "/pod-scratch is used by pod pod on node node-b",
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%q\nwant\n%q", got, want)
	}
}
