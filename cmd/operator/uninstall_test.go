package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator"
	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

// hookClient returns a client with the rights that the chart gives to a hook of helm uninstall.
func hookClient(t *testing.T, account string) client.Client {
	t.Helper()
	out, err := operatortest.Helm("template", "sealvol", "charts/sealvol", "--namespace", operatortest.Namespace, "--kube-version", "1.36.0", "--show-only", "templates/uninstall.yaml")
	if err != nil {
		t.Fatal(err)
	}
	list, err := operatortest.Parse(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range list {
		if u.GetKind() != "Job" {
			if err := env.Apply(t.Context(), u); err != nil {
				t.Fatal(err)
			}
		}
	}
	config, err := env.As(t.Context(), account, "")
	if err != nil {
		t.Fatal(err)
	}
	scheme, err := operator.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// usedVolume creates a SealedVolume that a node uses, or that no node uses if node is empty.
func usedVolume(t *testing.T, ns, name, node string, health v1alpha1.Health) *v1alpha1.SealedVolume {
	t.Helper()
	v := &v1alpha1.SealedVolume{ObjectMeta: metav1.ObjectMeta{GenerateName: "pvc-"},
		Spec: v1alpha1.SealedVolumeSpec{ClaimRef: &v1alpha1.VolumeClaim{Namespace: ns, Name: name, UID: "uid-" + name}}}
	if err := env.Client.Create(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	was := v.DeepCopy()
	v.Status.Phase = v1alpha1.PhaseAvailable
	if node != "" {
		c := metav1.Condition{Type: v1alpha1.VolumeHealthy, Status: metav1.ConditionTrue, Reason: "AsExpected", Message: "nothing is wrong"}
		if health != v1alpha1.HealthHealthy {
			c.Status, c.Reason, c.Message = metav1.ConditionFalse, "Broken", "a sector is gone"
		}
		v.Status.Phase, v.Status.Node, v.Status.Health = v1alpha1.PhaseStaged, node, health
		meta.SetStatusCondition(&v.Status.Conditions, c)
	}
	if err := env.Client.Status().Patch(t.Context(), v, client.MergeFrom(was)); err != nil {
		t.Fatal(err)
	}
	return v
}

// wantUninstalled expects one warning for each of the claims, and no other event.
func wantUninstalled(t *testing.T, namespace string, claims ...string) {
	t.Helper()
	var events eventsv1.EventList
	if err := env.Client.List(t.Context(), &events, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	told := map[string]int{}
	for _, e := range events.Items {
		told[e.Regarding.Name+" "+e.Type+" "+e.Reason]++
	}
	for _, name := range claims {
		if told[name+" Warning Uninstalled"] != 1 {
			t.Error(name, told)
		}
	}
	if len(told) != len(claims) {
		t.Error(told)
	}
}

// removeDriver deletes the CSIDriver until the test ends, as an uninstallation does.
func removeDriver(t *testing.T) {
	t.Helper()
	d := &storagev1.CSIDriver{}
	if err := env.Client.Get(t.Context(), client.ObjectKey{Name: operator.DriverName}, d); err != nil {
		t.Fatal(err)
	}
	if err := env.Client.Delete(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.ResourceVersion, d.UID = "", ""
		if err := env.Client.Create(context.Background(), d); err != nil {
			t.Error(err)
		}
	})
}

// TestNoteUninstallWhileInstalled: the hook records nothing while Sealvol is installed, as when somebody
// applies the output of helm template with its hooks.
func TestNoteUninstallWhileInstalled(t *testing.T) {
	after := hookClient(t, "uninstalled")
	used := usedVolume(t, "default", "used", "node-a", v1alpha1.HealthHealthy)
	t.Cleanup(func() {
		if err := env.Client.Delete(context.Background(), used); err != nil {
			t.Error(err)
		}
	})
	var out bytes.Buffer
	if err := noteUninstall(t.Context(), after, operatortest.Namespace, &out); err != nil || !strings.Contains(out.String(), "is installed") {
		t.Error(err, out.String())
	}
	if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(used), used); err != nil || used.Status.Health != v1alpha1.HealthHealthy {
		t.Errorf("%v, %+v", err, used.Status)
	}
}

// TestUninstall: an uninstallation with volumes in use is refused until it is confirmed, and the
// confirmation counts only once. Afterwards, volumes that were in use do not look healthy any more,
// and their users get one event. Volumes that were not in use, or have lost data, keep their
// health.
func TestUninstall(t *testing.T) {
	before, after := hookClient(t, "uninstall"), hookClient(t, "uninstalled")
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "tenant-"}}
	if err := env.Client.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	used := usedVolume(t, ns.Name, "used", "node-a", v1alpha1.HealthHealthy)
	lost := usedVolume(t, ns.Name, "lost", "node-a", v1alpha1.HealthDataLoss)
	bare := usedVolume(t, ns.Name, "bare", "node-a", v1alpha1.HealthDataLoss) // lost, without a condition
	withCondition := bare.DeepCopy()
	bare.Status.Conditions = nil
	if err := env.Client.Status().Patch(t.Context(), bare, client.MergeFrom(withCondition)); err != nil {
		t.Fatal(err)
	}
	sick := usedVolume(t, ns.Name, "sick", "node-a", v1alpha1.HealthDegraded)
	idle := usedVolume(t, ns.Name, "idle", "", "")
	t.Cleanup(func() {
		for _, v := range []*v1alpha1.SealedVolume{used, lost, bare, sick, idle} {
			if err := env.Client.Delete(t.Context(), v); err != nil && t.Context().Err() == nil {
				t.Error(err)
			}
		}
	})
	var out bytes.Buffer
	err := checkUninstall(t.Context(), before, operatortest.Namespace, &out)
	how, _, found := strings.Cut(err.Error(), operator.UninstallAnnotation)
	if !found || !strings.HasSuffix(how, "kubectl annotate namespace "+operatortest.Namespace+" ") || !strings.Contains(how, ns.Name+"/used is staged on node node-a") {
		t.Fatal(err)
	}
	confirm := &corev1.Namespace{}
	if err := env.Client.Get(t.Context(), client.ObjectKey{Name: operatortest.Namespace}, confirm); err != nil {
		t.Fatal(err)
	}
	was := confirm.DeepCopy()
	confirm.Annotations = map[string]string{operator.UninstallAnnotation: operator.UninstallConfirmed}
	if err := env.Client.Patch(t.Context(), confirm, client.MergeFrom(was)); err != nil {
		t.Fatal(err)
	}
	if err := checkUninstall(t.Context(), before, operatortest.Namespace, &out); err != nil || !strings.Contains(out.String(), "confirmed") {
		t.Fatal(out.String(), err)
	}
	removeDriver(t)
	for range 2 { // helm may run the hook again
		if err := noteUninstall(t.Context(), after, operatortest.Namespace, &out); err != nil {
			t.Fatal(err)
		}
	}
	for v, want := range map[*v1alpha1.SealedVolume]struct {
		health v1alpha1.Health
		status metav1.ConditionStatus
		last   string
	}{
		used: {v1alpha1.HealthUnknown, metav1.ConditionUnknown, "The last reported health was Healthy"},
		lost: {v1alpha1.HealthDataLoss, metav1.ConditionFalse, "The last reported health was DataLoss: a sector is gone"},
		bare: {v1alpha1.HealthDataLoss, metav1.ConditionFalse, "The last reported health was DataLoss"},
		sick: {v1alpha1.HealthUnknown, metav1.ConditionUnknown, "The last reported health was Degraded: a sector is gone"},
		idle: {},
	} {
		if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(v), v); err != nil {
			t.Fatal(err)
		}
		c := meta.FindStatusCondition(v.Status.Conditions, v1alpha1.VolumeHealthy)
		if v.Status.Health != want.health || (c == nil) != (v == idle) || c != nil &&
			(c.Status != want.status || c.Reason != v1alpha1.ReasonUninstalled || !strings.Contains(c.Message, "nobody watches it") || !strings.HasSuffix(c.Message, want.last)) {
			t.Errorf("%s: %+v", v.Spec.ClaimRef.Name, v.Status)
		}
	}
	wantUninstalled(t, ns.Name, "used", "lost", "bare", "sick")
	if err := checkUninstall(t.Context(), before, operatortest.Namespace, &out); err == nil {
		t.Error("the confirmation was not removed")
	}
}
