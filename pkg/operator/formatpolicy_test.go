package operator_test

import (
	"fmt"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// The record that a device was formatted can be neither changed nor removed, not even by
// administrators without the verb override-anchor. The record that formatting has begun can be
// removed.
func TestFormatPolicy(t *testing.T) {
	node := clientOf(t, "node", "node-a")
	sv := volumeOf(t, "node-a")
	update := func(c client.Client, f *v1alpha1.VolumeFormat) error {
		if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(sv), sv); err != nil {
			return err
		}
		was := sv.DeepCopy()
		sv.Status.Format = f
		return c.Status().Patch(t.Context(), sv, client.MergeFrom(was))
	}
	of := func(s v1alpha1.FormatState, year int) *v1alpha1.VolumeFormat {
		return &v1alpha1.VolumeFormat{State: s, Time: metav1.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)}
	}
	for _, f := range []*v1alpha1.VolumeFormat{of(v1alpha1.FormatFormatting, 2025), nil, of(v1alpha1.FormatFormatting, 2025), of(v1alpha1.FormatFormatted, 2026), of(v1alpha1.FormatFormatted, 2026)} {
		if err := update(node, f); err != nil {
			t.Errorf("%+v: %v", f, err)
		}
	}
	refused := []*v1alpha1.VolumeFormat{nil, of(v1alpha1.FormatFormatting, 2026), of(v1alpha1.FormatFormatted, 2027)}
	for _, f := range refused {
		denied(t, fmt.Sprintf("%+v", f), "sealvol-formats", func() error { return update(node, f) })
	}
	for verb, want := range map[string]bool{"override-anchor": true, "update": false} {
		who := rest.CopyConfig(env.Config)
		who.Impersonate = rest.ImpersonationConfig{UserName: "format-admin-" + verb}
		role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: who.Impersonate.UserName}, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"sealvol.dev"}, Resources: []string{"sealedvolumes", "sealedvolumes/status"}, Verbs: []string{"get", "list", "patch", "update", "delete", verb}}}}
		create(t, role, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: role.Name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
			Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: who.Impersonate.UserName}}})
		c := newClient(t, who)
		if want {
			eventually(t, func() error { return update(c, nil) })
			if err := update(node, of(v1alpha1.FormatFormatted, 2026)); err != nil {
				t.Error(err)
			}
			continue
		}
		denied(t, "removed by an administrator", "sealvol-formats", func() error { return update(c, nil) })
		denied(t, "deleted by an administrator", "sealvol-formats", func() error { return c.Delete(t.Context(), sv) })
	}
	remove(t, sv) // by a user with all rights
}
