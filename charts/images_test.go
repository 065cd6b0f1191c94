package charts

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

// pods returns the pod specifications of all objects.
func pods(list []*unstructured.Unstructured) (all []map[string]any) {
	for _, u := range list {
		for _, path := range [][]string{{"spec", "template", "spec"}, {"spec", "jobTemplate", "spec", "template", "spec"}, {"spec"}} {
			p, ok, err := unstructured.NestedMap(u.Object, path...)
			if err == nil && ok && p["containers"] != nil {
				all = append(all, p)
			}
		}
	}
	return all
}

// containers returns the containers of all pods, including init containers.
func containers(t *testing.T, list []*unstructured.Unstructured) (all []map[string]any) {
	t.Helper()
	for _, p := range pods(list) {
		for _, field := range []string{"initContainers", "containers"} {
			some, _ := p[field].([]any)
			for _, c := range some {
				m, ok := c.(map[string]any)
				if !ok {
					t.Fatal(c)
				}
				all = append(all, m)
			}
		}
	}
	if len(all) < 5 {
		t.Fatalf("only %d containers", len(all))
	}
	return all
}

// imagesOf returns the images of all pods.
func imagesOf(t *testing.T, list []*unstructured.Unstructured) (all []string) {
	t.Helper()
	for _, c := range containers(t, list) {
		all = append(all, fmt.Sprint(c["image"]))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// TestRegistry: the value registry replaces the registry of all images and keeps their paths;
// images.registry does so for our images only.
func TestRegistry(t *testing.T) {
	theirs := []string{"csi-attacher:v4.12.0", "csi-node-driver-registrar:v2.17.0", "csi-provisioner:v6.3.0", "csi-resizer:v2.2.0", "csi-snapshotter:v8.6.0"}
	at := func(ours, sidecars string) (all []string) {
		for _, s := range theirs {
			all = append(all, sidecars+s)
		}
		all = append(all, ours+"driver:dev", ours+"operator:dev")
		slices.Sort(all)
		return all
	}
	for value, want := range map[string][]string{
		"":                               at("sealvol/", "registry.k8s.io/sig-storage/"),
		"registry=127.0.0.1:5000":        at("127.0.0.1:5000/sealvol/", "127.0.0.1:5000/sig-storage/"),
		"registry=reg.example/team/x":    at("reg.example/team/x/sealvol/", "reg.example/team/x/sig-storage/"),
		"registry=[::1]:5000":            at("[::1]:5000/sealvol/", "[::1]:5000/sig-storage/"),
		"images.registry=reg.example":    at("reg.example/sealvol/", "registry.k8s.io/sig-storage/"),
		"sidecars.registry=mirror.local": at("sealvol/", "mirror.local/"),
		"registry=r.example,images.registry=other,images.driver.repository=gone.example:1/sealvol/driver,images.operator.repository=localhost/sealvol/operator,sidecars.registry=gone.example/sig-storage": at("r.example/sealvol/", "r.example/sig-storage/"),
	} {
		if got := imagesOf(t, render(t, append(slices.Clone(ebs), value)...)); !slices.Equal(got, want) {
			t.Errorf("%q: %v\nnot %v", value, got, want)
		}
	}
}

// TestDigests: every image can be pinned by its digest.
func TestDigests(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	values := slices.Clone(ebs)
	for _, own := range []string{"driver", "operator"} {
		values = append(values, "images."+own+".digest="+digest)
	}
	for name, tag := range map[string]string{"provisioner": "v6.3.0", "snapshotter": "v8.6.0", "resizer": "v2.2.0", "attacher": "v4.12.0", "registrar": "v2.17.0"} {
		values = append(values, "sidecars."+name+"="+tag+"@"+digest)
	}
	for _, backend := range [][]string{values, values[len(ebs):]} {
		for _, image := range imagesOf(t, render(t, append(backend, "registry=r.example:5000")...)) {
			if !regexp.MustCompile(`^r\.example:5000/[a-z/-]+:[a-z0-9.]+@` + digest + `$`).MatchString(image) {
				t.Error(image)
			}
		}
	}
}

// TestReleaseDigests: the chart of a release uses the digests of its appVersion, but not for other
// tags.
func TestReleaseDigests(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sealvol")
	if err := os.CopyFS(dir, os.DirFS("sealvol")); err != nil {
		t.Fatal(err)
	}
	a, b, c := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64), "sha256:"+strings.Repeat("c", 64)
	if err := os.WriteFile(filepath.Join(dir, "files", "digests.yaml"), fmt.Appendf(nil, "driver: %s\noperator: %s\n", a, b), 0o600); err != nil {
		t.Fatal(err)
	}
	for values, want := range map[string][]string{
		"":                           {"sealvol/driver:dev@" + a, "sealvol/operator:dev@" + b},
		"images.registry=r.example":  {"r.example/sealvol/driver:dev@" + a, "r.example/sealvol/operator:dev@" + b},
		"images.pinned=false":        {"sealvol/driver:dev", "sealvol/operator:dev"},
		"images.driver.tag=v9":       {"sealvol/driver:v9", "sealvol/operator:dev@" + b},
		"images.driver.digest=" + c:  {"sealvol/driver:dev@" + c, "sealvol/operator:dev@" + b},
		"images.driver.tag=v9@" + c:  {"sealvol/driver:v9@" + c, "sealvol/operator:dev@" + b},
		"images.operator.tag=v1.2.3": {"sealvol/driver:dev@" + a, "sealvol/operator:v1.2.3"},
	} {
		out, err := operatortest.Helm("template", "sealvol", dir, "--set", values)
		if err != nil {
			t.Fatal(err)
		}
		list, err := operatortest.Parse(out)
		if err != nil {
			t.Fatal(err)
		}
		got := slices.DeleteFunc(imagesOf(t, list), func(s string) bool { return strings.Contains(s, "sig-storage") })
		if !slices.Equal(got, want) {
			t.Errorf("%q: %v, not %v", values, got, want)
		}
	}
}

// TestReleaseSidecars: the chart of a release uses the digests of its sidecars, from any registry,
// but not for other tags.
func TestReleaseSidecars(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sealvol")
	if err := os.CopyFS(dir, os.DirFS("sealvol")); err != nil {
		t.Fatal(err)
	}
	digest, own := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
	var text strings.Builder
	text.WriteString("sidecars:\n")
	for name, tag := range map[string]string{"csi-provisioner": "v6.3.0", "csi-snapshotter": "v8.6.0", "csi-resizer": "v2.2.0", "csi-attacher": "v4.12.0", "csi-node-driver-registrar": "v2.17.0"} {
		fmt.Fprintf(&text, "  %q: %s\n", name+":"+tag, digest)
	}
	if err := os.WriteFile(filepath.Join(dir, "files", "digests.yaml"), []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for values, provisioner := range map[string]string{
		"backend=local":                      "registry.k8s.io/sig-storage/csi-provisioner:v6.3.0@" + digest,
		"registry=r.example":                 "r.example/sig-storage/csi-provisioner:v6.3.0@" + digest,
		"sidecars.provisioner=v6.4.0":        "registry.k8s.io/sig-storage/csi-provisioner:v6.4.0",
		"sidecars.provisioner=v6.3.0@" + own: "registry.k8s.io/sig-storage/csi-provisioner:v6.3.0@" + own,
		"images.pinned=false":                "registry.k8s.io/sig-storage/csi-provisioner:v6.3.0",
	} {
		out, err := operatortest.Helm("template", "sealvol", dir, "--set", values)
		if err != nil {
			t.Fatal(err)
		}
		list, err := operatortest.Parse(out)
		if err != nil {
			t.Fatal(err)
		}
		got := slices.DeleteFunc(imagesOf(t, list), func(s string) bool { return !strings.Contains(s, "sig-storage") })
		if !slices.Contains(got, provisioner) {
			t.Errorf("%s: %v, not %s", values, got, provisioner)
		}
		for _, image := range got {
			if !strings.Contains(image, "provisioner") && strings.Contains(image, "@") != (values != "images.pinned=false") {
				t.Errorf("%s: %s", values, image)
			}
		}
	}
}

// TestOlderValues: helm upgrade --reuse-values uses the values of an earlier version, which lack
// new values.
func TestOlderValues(t *testing.T) {
	list := render(t, "registry=null", "images.registry=null", "images.pinned=null", "images.driver.digest=null", "images.operator.digest=null", "sidecars.resources=null", "snapshots.enabled=true")
	if got := imagesOf(t, list); !slices.Contains(got, "sealvol/driver:dev") || !slices.Contains(got, "registry.k8s.io/sig-storage/csi-resizer:v2.2.0") {
		t.Error(got)
	}
	c := client.NewDryRunClient(client.WithFieldValidation(env.Client, "Strict"))
	for _, u := range list {
		rename(t, u)
		if err := c.Create(t.Context(), u); err != nil {
			t.Errorf("%s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
}

// TestPods: all pods run only on Linux, all containers request memory, and containers that are not
// privileged are confined.
func TestPods(t *testing.T) {
	for _, values := range [][]string{nil, ebs, {"node.nodeSelector.disk=ssd", "operator.nodeSelector.disk=ssd", "controller.nodeSelector.disk=ssd"}} {
		list := render(t, values...)
		for _, p := range pods(list) {
			want := map[string]any{"kubernetes.io/os": "linux"}
			if values != nil && values[0] != ebs[0] {
				want["disk"] = "ssd"
			}
			if got, _ := p["nodeSelector"].(map[string]any); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%v: node selector %v", values, got)
			}
		}
		for _, p := range pods(list) {
			whole, _, err := unstructured.NestedString(p, "securityContext", "seccompProfile", "type")
			if err != nil {
				t.Fatal(err)
			}
			some, _ := p["containers"].([]any)
			for _, c := range some {
				m, _ := c.(map[string]any)
				own, _, err1 := unstructured.NestedString(m, "securityContext", "seccompProfile", "type")
				privileged, _, err2 := unstructured.NestedBool(m, "securityContext", "privileged")
				memory, ok, err3 := unstructured.NestedString(m, "resources", "requests", "memory")
				if err1 != nil || err2 != nil || err3 != nil || !ok || memory == "" {
					t.Errorf("%v requests no memory: %v %v %v", m["name"], err1, err2, err3)
				}
				if !privileged && whole != "RuntimeDefault" && own != "RuntimeDefault" {
					t.Errorf("%v may make any system call", m["name"])
				}
			}
		}
	}
}

// TestSnapshotAPI: objects that need the snapshot API are rendered if the cluster has it, or if the
// values say so.
func TestSnapshotAPI(t *testing.T) {
	cluster := []string{"--api-versions", "apiregistration.k8s.io/v1"}
	api := slices.Concat(cluster, []string{"--api-versions", "snapshot.storage.k8s.io/v1"})
	for _, c := range []struct {
		args []string
		want bool
	}{
		{nil, true}, // rendered without a cluster
		{cluster, false},
		{api, true},
		{slices.Concat(cluster, []string{"--set", "snapshots.enabled=true"}), true},
		{slices.Concat(api, []string{"--set", "snapshots.enabled=false"}), false},
		{slices.Concat(api, []string{"--set", strings.Join(ebs, ",")}), true},
		{slices.Concat(cluster, []string{"--set", strings.Join(ebs, ",")}), false},
	} {
		out, err := operatortest.Helm(append([]string{"template", "sealvol", "charts/sealvol"}, c.args...)...)
		if err != nil {
			t.Fatal(err)
		}
		text := string(out)
		for _, part := range []string{"kind: VolumeSnapshotClass\n", "csi-snapshotter:", "--snapshots=true"} {
			if strings.Contains(text, part) != c.want {
				t.Errorf("%v: %s: %v", c.args, part, !c.want)
			}
		}
		if strings.Contains(text, "--snapshots=false") == c.want {
			t.Errorf("%v: the operator's flag --snapshots is wrong", c.args)
		}
	}
}

// TestClusterKnown: the API apiregistration.k8s.io, which all clusters have, tells whether helm
// renders for a cluster.
func TestClusterKnown(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"Chart.yaml":       "apiVersion: v2\nname: x\nversion: 0.1.0\n",
		"templates/x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n" + `data: {known: " {{ .Capabilities.APIVersions.Has "apiregistration.k8s.io/v1" }}{{ .Capabilities.APIVersions.Has "snapshot.storage.k8s.io/v1" }}"}` + "\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := operatortest.WriteKubeconfig(kubeconfig, env.Config); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{"falsefalse": nil, "truetrue": {"--dry-run=server", "--kubeconfig", kubeconfig}} {
		out, err := operatortest.Helm(append([]string{"template", "x", dir}, args...)...)
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%v: %s, %v", args, out, err)
		}
	}
}

// TestNotes: the notes tell what to do next, and warn about a chart that is not from a release.
func TestNotes(t *testing.T) {
	notes := func(values ...string) string {
		args := []string{"install", "sealvol", "charts/sealvol", "--dry-run=client", "--namespace", operatortest.Namespace}
		for _, v := range values {
			args = append(args, "--set", v)
		}
		out, err := operatortest.Helm(args...)
		if err != nil {
			t.Fatal(err)
		}
		_, text, _ := strings.Cut(string(out), "\nNOTES:\n")
		for _, line := range strings.Split(text, "\n") {
			if len(line) > 100 {
				t.Errorf("%d columns: %s", len(line), line)
			}
		}
		return text
	}
	for want, text := range map[string]string{
		"sealvol/driver:dev and sealvol/operator:dev": notes(),
		"storageClassName: fast":                      notes("storageClass.name=fast"),
		"get secret -l sealvol.dev/role=key":          notes(),
		"Snapshots are off.":                          notes("snapshots.enabled=false"),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %s", want, text)
		}
	}
	if text := notes(); strings.Contains(text, "Snapshots are off") {
		t.Error(text)
	}
	if text := notes("images.driver.tag=v1.0.0", "images.operator.tag=v1.0.0", "snapshots.enabled=true"); strings.Contains(text, "WARNING") || strings.Contains(text, "Snapshots are off") {
		t.Error(text)
	}
}
