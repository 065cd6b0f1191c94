package operator_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/operator"
)

// inUse creates a SealedVolume that a node uses.
func inUse(t *testing.T) *v1alpha1.SealedVolume {
	t.Helper()
	sv := &v1alpha1.SealedVolume{ObjectMeta: metav1.ObjectMeta{GenerateName: "used-"}}
	create(t, sv)
	was := sv.DeepCopy()
	sv.Status.Node, sv.Status.Health = "node-a", v1alpha1.HealthHealthy
	if err := env.Client.Status().Patch(t.Context(), sv, client.MergeFrom(was)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Client.Delete(context.Background(), sv); err != nil {
			t.Error(err)
		}
	})
	return sv
}

// watching returns a client that an interceptor can wrap.
func watching(t *testing.T) client.WithWatch {
	t.Helper()
	scheme, err := operator.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.NewWithWatch(env.Config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// noted tells whether the status of a volume says that Sealvol was uninstalled.
func noted(t *testing.T, sv *v1alpha1.SealedVolume) bool {
	t.Helper()
	if err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(sv), sv); err != nil {
		t.Fatal(err)
	}
	c := meta.FindStatusCondition(sv.Status.Conditions, v1alpha1.VolumeHealthy)
	return c != nil && c.Reason == v1alpha1.ReasonUninstalled
}

// NoteUninstall reports a volume that it could neither write nor read again.
func TestNoteUninstallTellsFailures(t *testing.T) {
	sv := inUse(t)
	c := interceptor.NewClient(watching(t), interceptor.Funcs{
		SubResourcePatch: func(ctx context.Context, w client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			if o.GetName() == sv.Name {
				return apierrors.NewConflict(schema.GroupResource{Resource: "sealedvolumes"}, sv.Name, errors.New("injected"))
			}
			return w.SubResource(sub).Patch(ctx, o, p, opts...)
		},
		Get: func(ctx context.Context, w client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if key.Name == sv.Name {
				return apierrors.NewInternalError(errors.New("injected"))
			}
			return w.Get(ctx, key, o, opts...)
		},
	})
	if _, err := operator.NoteUninstall(t.Context(), c); err == nil {
		t.Error("a volume is not noted, and nobody knows")
	}
	if noted(t, sv) {
		t.Error("noted")
	}
}

// A volume that cannot be written does not keep NoteUninstall from the volumes of later pages.
func TestNoteUninstallGoesOn(t *testing.T) {
	refused, last := inUse(t), inUse(t)
	refuse := errors.New("refused")
	c := interceptor.NewClient(watching(t), interceptor.Funcs{
		List: func(ctx context.Context, w client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
			return w.List(ctx, l, append(opts, client.Limit(1))...)
		},
		SubResourcePatch: func(ctx context.Context, w client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			if o.GetName() == min(refused.Name, last.Name) {
				return refuse
			}
			return w.SubResource(sub).Patch(ctx, o, p, opts...)
		},
	})
	if _, err := operator.NoteUninstall(t.Context(), c); !errors.Is(err, refuse) {
		t.Errorf("%v, not %v", err, refuse)
	}
	for _, sv := range []*v1alpha1.SealedVolume{refused, last} {
		if noted(t, sv) != (sv.Name == max(refused.Name, last.Name)) {
			t.Errorf("%s: %+v", sv.Name, sv.Status)
		}
	}
}

// NoteUninstall writes several volumes concurrently: helm waits for it, and the hook has a deadline.
func TestNoteUninstallAtOnce(t *testing.T) {
	volumes := []*v1alpha1.SealedVolume{inUse(t), inUse(t)}
	arrived, both := atomic.Int64{}, make(chan struct{})
	c := interceptor.NewClient(watching(t), interceptor.Funcs{
		SubResourcePatch: func(ctx context.Context, w client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			if o.GetName() == volumes[0].Name || o.GetName() == volumes[1].Name {
				if arrived.Add(1) == 2 {
					close(both)
				}
				select {
				case <-both:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return w.SubResource(sub).Patch(ctx, o, p, opts...)
		},
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := operator.NoteUninstall(ctx, c); err != nil {
		t.Fatal(err)
	}
	for _, sv := range volumes {
		if !noted(t, sv) {
			t.Errorf("%s is not noted", sv.Name)
		}
	}
}

// NoteUninstall omits a volume without a PersistentVolume: its last node cannot report any more that
// it unmounted the volume.
func TestNoteUninstallOmitsRetained(t *testing.T) {
	sv := inUse(t)
	was := sv.DeepCopy()
	sv.Status.Phase = v1alpha1.PhaseRetained
	if err := env.Client.Status().Patch(t.Context(), sv, client.MergeFrom(was)); err != nil {
		t.Fatal(err)
	}
	if _, err := operator.NoteUninstall(t.Context(), env.Client); err != nil || noted(t, sv) {
		t.Errorf("%v, %+v", err, sv.Status)
	}
}
