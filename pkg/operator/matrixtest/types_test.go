package matrixtest

import (
	"fmt"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

// TestTypes: the type checker of Kubernetes finds no errors in the policies, such as unknown fields
// or comparisons of different types.
func TestTypes(t *testing.T) {
	for backend, b := range backends() {
		t.Run(backend, func(t *testing.T) {
			env, err := operatortest.Start(b.values...)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := env.Stop(); err != nil {
					t.Error(err)
				}
			}()
			stop, err := env.StartControllers()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = stop() }() // the process was killed, so it reports an error
			for _, name := range policies(t, b.values) {
				var p admissionv1.ValidatingAdmissionPolicy
				err := eventually(t.Context(), func() error {
					if err := env.Client.Get(t.Context(), client.ObjectKey{Name: name}, &p); err != nil {
						return err
					}
					if p.Status.ObservedGeneration != p.Generation || p.Status.TypeChecking == nil {
						return fmt.Errorf("%s is not checked", name)
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				for _, w := range p.Status.TypeChecking.ExpressionWarnings {
					t.Errorf("%s: %s: %s", name, w.FieldRef, w.Warning)
				}
			}
		})
	}
}
