package charts

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

var env *operatortest.Env

func TestMain(m *testing.M) {
	operatortest.Main(m, func(e *operatortest.Env) { env = e }, func() error { return nil })
}

func render(t *testing.T, values ...string) []*unstructured.Unstructured {
	t.Helper()
	list, err := operatortest.Render(values...)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// find returns the one object of a kind and name.
func find(t *testing.T, list []*unstructured.Unstructured, kind, name string) map[string]any {
	t.Helper()
	for _, u := range list {
		if u.GetKind() == kind && u.GetName() == name {
			return u.Object
		}
	}
	t.Fatalf("no %s %s", kind, name)
	return nil
}

// at follows a path of keys and, written as numbers, indices.
func at(t *testing.T, o any, path ...any) any {
	t.Helper()
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, ok := o.(map[string]any)
			if !ok {
				t.Fatalf("no %v of %v in %v", p, path, o)
			}
			o = m[p]
		case int:
			l, ok := o.([]any)
			if !ok || p >= len(l) {
				t.Fatalf("no %v of %v in %v", p, path, o)
			}
			o = l[p]
		}
	}
	return o
}

// The API server takes what the chart renders, for all kinds of values, with not one field that it does not know.
func TestAccepted(t *testing.T) {
	for _, values := range [][]string{
		nil,
		{"snapshots.enabled=false", "node.agent=false", "admissionPolicies.enabled=false", "crds.install=false", "storageClass.create=false"},
		{"operator.replicas=3", "controller.replicas=2", "images.driver.repository=registry.example:5000/x/driver", "images.driver.tag=v1.2.3",
			"imagePullSecrets[0].name=pull", "logLevel=debug", "logFormat=text", "kubeletDir=/var/snap/kubelet", "stateDir=/data/sealvol", "local.overcommit=2.5", "local.maxVolumes=20"},
		{"storageClass.default=true", "storageClass.reclaimPolicy=Retain", "storageClass.parameters.suite=xaes256gcm", "storageClass.mountOptions={noatime,nodev}",
			"storageClass.annotations.team=storage", "snapshotClass.default=true", "snapshotClass.deletionPolicy=Retain"},
		{"keyImport.namespaces={sealvol-system,default}", "node.maxUnavailable=3", "node.tolerations[0].key=dedicated", "node.nodeSelector.disk=ssd",
			"mounter.serverUser=0", "mounter.volumeMemoryBytes=1073741824"},
	} {
		c := client.NewDryRunClient(client.WithFieldValidation(env.Client, "Strict"))
		for _, u := range render(t, values...) {
			rename(t, u)
			if err := c.Create(t.Context(), u); err != nil {
				t.Errorf("%v: %s %s: %v", values, u.GetKind(), u.GetName(), err)
			}
		}
	}
}

// rename gives an object a name beside those that are there already.
func rename(t *testing.T, u *unstructured.Unstructured) {
	t.Helper()
	if u.GetKind() != "CustomResourceDefinition" {
		u.SetName(u.GetName() + "-dry")
		return
	}
	if err := unstructured.SetNestedField(u.Object, "dry.sealvol.dev", "spec", "group"); err != nil {
		t.Fatal(err)
	}
	plural, _, _ := strings.Cut(u.GetName(), ".")
	u.SetName(plural + ".dry.sealvol.dev")
}

// What makes no sense is refused before anything is rendered, and the message says where.
func TestRefused(t *testing.T) {
	for value, want := range map[string]string{
		"backend=ebs":                             "/backend",
		"nodeAgent=true":                          "nodeAgent",
		"node.agent=maybe":                        "/node/agent",
		"operator.replicas=-1":                    "/operator/replicas",
		"images.driver.tag=a b":                   "/images/driver/tag",
		"images.pullPolicy=Sometimes":             "/images/pullPolicy",
		"kubeletDir=var/lib/kubelet":              "/kubeletDir",
		"stateDir=/a/../b c":                      "/stateDir",
		"local.overcommit=0.5":                    "/local/overcommit",
		"logLevel=loud":                           "/logLevel",
		"storageClass.name=Sealvol":               "/storageClass/name",
		"storageClass.reclaimPolicy=Recycle":      "/storageClass/reclaimPolicy",
		"storageClass.parameters.suite=rot13":     "/storageClass/parameters/suite",
		"storageClass.parameters.fsType=ext4":     "fsType",
		"storageClass.mountOptions={suid}":        "/storageClass/mountOptions/0",
		"keyImport.namespaces={Tenant}":           "/keyImport/namespaces/0",
		"mounter.volumeMemoryBytes=1000":          "/mounter/volumeMemoryBytes",
		"node.maxUnavailable=0%":                  "/node/maxUnavailable",
		"sidecars.provisioner=latest build":       "/sidecars/provisioner",
		"snapshotClass.deletionPolicy=Snapshot":   "/snapshotClass/deletionPolicy",
		"admissionPolicies.enabled=null":          "admissionPolicies",
		"operator.resources.limits=null,crds=yes": "/crds",
	} {
		_, err := operatortest.Render(value)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", value, err)
		}
	}
}

// What must hold of the objects whatever the values.
func TestPromises(t *testing.T) {
	list := render(t)
	for _, u := range list {
		switch u.GetKind() {
		case "CustomResourceDefinition":
			if u.GetAnnotations()["helm.sh/resource-policy"] != "keep" {
				t.Errorf("%s goes when the release is uninstalled, and all keys with it", u.GetName())
			}
		case "ClusterRole", "Role":
			checkRole(t, u)
		case "Deployment", "DaemonSet":
			checkPod(t, u)
		}
	}
	driver := find(t, list, "CSIDriver", "csi.sealvol.dev")
	for field, want := range map[string]any{"attachRequired": false, "requiresRepublish": true, "fsGroupPolicy": "File", "storageCapacity": true, "podInfoOnMount": false} {
		if got := at(t, driver, "spec", field); got != want {
			t.Errorf("CSIDriver: %s is %v", field, got)
		}
	}
	if s := at(t, find(t, list, "DaemonSet", "sealvol-mounter"), "spec", "updateStrategy", "type"); s != "OnDelete" {
		t.Errorf("an upgrade would end mount servers: %v", s)
	}
	class := find(t, list, "StorageClass", "sealvol")
	for _, call := range []string{"stage", "publish", "expand"} {
		name, ns := at(t, class, "parameters", "csi.storage.k8s.io/node-"+call+"-secret-name"), at(t, class, "parameters", "csi.storage.k8s.io/node-"+call+"-secret-namespace")
		if name != "${pv.name}" || ns != operatortest.Namespace {
			t.Errorf("the %s secret is %v/%v", call, ns, name)
		}
	}
}

// checkRole: Secrets are the operator's, in its namespace; where tenants bind it, it may get them. Nobody may do everything.
func checkRole(t *testing.T, u *unstructured.Unstructured) {
	t.Helper()
	var role rbacv1.ClusterRole
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &role); err != nil {
		t.Fatal(err)
	}
	for _, r := range role.Rules {
		if strings.Contains(strings.Join(append(append(r.APIGroups, r.Resources...), r.Verbs...), " "), "*") {
			t.Errorf("%s %s has a wildcard", u.GetKind(), u.GetName())
		}
		for _, x := range r.Resources {
			operators := u.GetKind() == "Role" && u.GetName() == "sealvol-operator" || u.GetName() == "sealvol-key-import" && strings.Join(r.Verbs, " ") == "get"
			if x == "secrets" && !operators {
				t.Errorf("%s %s is about Secrets", u.GetKind(), u.GetName())
			}
		}
	}
}

// checkPod: only what mounts is privileged; no other container may become root again.
func checkPod(t *testing.T, u *unstructured.Unstructured) {
	t.Helper()
	containers, ok := at(t, u.Object, "spec", "template", "spec", "containers").([]any)
	if !ok {
		t.Fatal(u.GetName())
	}
	for _, c := range containers {
		name, privileged := at(t, c, "name"), at(t, c, "securityContext", "privileged") == true
		mounts := name == "driver" && u.GetKind() == "DaemonSet" || name == "mounter"
		if privileged != mounts {
			t.Errorf("%s: container %v: privileged is %v", u.GetName(), name, privileged)
		}
		if !mounts && (at(t, c, "securityContext", "allowPrivilegeEscalation") != false || at(t, c, "securityContext", "readOnlyRootFilesystem") != true) {
			t.Errorf("%s: container %v is not confined", u.GetName(), name)
		}
	}
}

// With kustomize one gets what helm renders, with the definitions and the namespace.
func TestKustomize(t *testing.T) {
	var stderr bytes.Buffer
	cmd := exec.Command(filepath.Join(operatortest.Bin(), "kubectl"), "kustomize", filepath.Join(operatortest.Root(), "config", "default"))
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	list, err := operatortest.Parse(out)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, u := range list {
		got[id(u)] = true
	}
	for _, u := range render(t) {
		if !got[id(u)] {
			t.Errorf("%s is not in config/default", id(u))
		}
	}
	if !got["Namespace//sealvol-system"] {
		t.Error("no namespace")
	}
}

func id(u *unstructured.Unstructured) string {
	return fmt.Sprintf("%s/%s/%s", u.GetKind(), u.GetNamespace(), u.GetName())
}

// helm's own opinion.
func TestLint(t *testing.T) {
	if out, err := operatortest.Helm("lint", "--strict", "charts/sealvol"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
