package matrixtest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

// TestSecretNamespaces: a volume may name Secrets of a namespace that node.secretNamespaces lists,
// and with "*" those of its claim's namespace, but no others.
func TestSecretNamespaces(t *testing.T) {
	w := newWorld(t, "local")
	const refused = "node.secretNamespaces"
	for _, c := range []struct {
		value, namespace string
		says             string // part of the refusal; "": the request is allowed
	}{
		{"null", "crm", refused},
		{"{shop}", "shop", ""},
		{"{shop}", "crm", refused},
		{"{*}", "crm", ""}, // the claim's namespace
		{"{*}", "shop", refused},
		{"{*,shop}", "shop", ""},
		{"{*," + operatortest.Namespace + "}", operatortest.Namespace, refused}, // the release's namespace cannot be listed
	} {
		t.Run(c.value+" "+c.namespace, func(t *testing.T) {
			list, err := operatortest.Render("node.secretNamespaces=" + c.value)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range list {
				if u.GetName() == "sealvol-volumes" && u.GetKind() == "ValidatingAdmissionPolicy" {
					if err := w.env.Apply(t.Context(), u); err != nil {
						t.Fatal(err)
					}
				}
			}
			err = eventually(t.Context(), func() error {
				err := w.send(t.Context(), nodeB, create("persistentvolumes x", "volume", `{spec: {csi: {nodeStageSecretRef: {namespace: `+c.namespace+`, name: password}}}}`))
				if c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
					return fmt.Errorf("want a refusal: %w", err)
				}
				if c.says == "" {
					return err
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}
