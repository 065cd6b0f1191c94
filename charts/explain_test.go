package charts

import (
	"os"
	"path/filepath"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// TestExplained: kubectl explain describes every field.
func TestExplained(t *testing.T) {
	files, err := filepath.Glob("sealvol/files/crds/*.yaml")
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.Unmarshal(b, &crd); err != nil {
			t.Fatal(err)
		}
		for _, v := range crd.Spec.Versions {
			for name, p := range v.Schema.OpenAPIV3Schema.Properties {
				if name != "metadata" { // the API server describes it
					explained(t, crd.Spec.Names.Singular+"."+name, &p)
				}
			}
		}
	}
}

func explained(t *testing.T, path string, p *apiextensionsv1.JSONSchemaProps) {
	t.Helper()
	if p.Description == "" {
		t.Errorf("%s has no description", path)
	}
	if p.Items != nil && p.Items.Schema != nil {
		p = p.Items.Schema
	}
	for name, sub := range p.Properties {
		explained(t, path+"."+name, &sub)
	}
}
