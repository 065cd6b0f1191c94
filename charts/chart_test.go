package charts

import (
	"bytes"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
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

// render renders the chart as users get it, including the objects of hooks, which exist only for a
// while.
func render(t *testing.T, values ...string) []*unstructured.Unstructured {
	t.Helper()
	args := []string{"template", "sealvol", "charts/sealvol", "--namespace", operatortest.Namespace, "--kube-version", "1.36.0"}
	for _, v := range values {
		args = append(args, "--set", v)
	}
	out, err := operatortest.Helm(args...)
	if err != nil {
		t.Fatal(err)
	}
	list, err := operatortest.Parse(out)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// find returns the object of a kind and name.
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

// at follows a path of keys and indices.
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

// TestAccepted: the API server accepts what the chart renders, for all kinds of values, and knows
// every field.
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
		ebs,
		slices.Concat(ebs, []string{"snapshots.enabled=false", "node.agent=false", "admissionPolicies.enabled=false", "controller.replicas=1", "ebs.attachLimitUpdateSeconds=0"}),
		slices.Concat(ebs, []string{"ebs.region=eu-west-1", "ebs.zone=eu-west-1a", "ebs.endpoints.ec2=https://vpce-1.ec2.eu-west-1.vpce.amazonaws.com", "ebs.endpoints.sts=https://sts.example",
			"ebs.endpoints.metadata=http://127.0.0.1:4980", "ebs.fipsEndpoints=true", "ebs.dualStackEndpoints=true", "ebs.caBundle=our-ca", "ebs.kmsKeyId=alias/sealvol",
			"ebs.tags.team=storage", "ebs.tags.cost center=12: b", "ebs.volumeAttachLimit=20", "ebs.metadataSources={kubernetes,imds}", "proxy.httpsProxy=http://proxy.example:3128",
			"proxy.noProxy=169.254.169.254\\,.svc", `controller.serviceAccount.annotations.eks\.amazonaws\.com/role-arn=arn:aws:iam::111122223333:role/sealvol`,
			"controller.extraEnv[0].name=GODEBUG", "controller.extraEnv[0].value=fips140=on", "node.extraEnv[0].name=A", "node.extraEnv[0].value=b", "node.extraArgs={--sys-dir=/x}",
			"node.hostNetwork=true", "controller.hostNetwork=true"}),
		slices.Concat(ebs, []string{"storageClass.parameters.type=io2", "storageClass.parameters.iopsPerGB=50", "extraStorageClasses[0].name=sealvol-cold", "extraStorageClasses[0].parameters.type=sc1",
			"extraStorageClasses[0].parameters.tagSpecification_1=team=storage",
			"extraStorageClasses[1].name=sealvol-own-key", "extraStorageClasses[1].parameters.encrypted=true", "extraStorageClasses[1].parameters.kmsKeyId=alias/own",
			"extraStorageClasses[1].reclaimPolicy=Retain", "extraStorageClasses[1].mountOptions={noatime}", "extraStorageClasses[1].annotations.a=b",
			"extraStorageClasses[1].allowedTopologies[0].matchLabelExpressions[0].key=topology.kubernetes.io/zone", "extraStorageClasses[1].allowedTopologies[0].matchLabelExpressions[0].values={eu-west-1a}",
			"volumeAttributesClasses[0].name=fast", "volumeAttributesClasses[0].parameters.iops=6000"}),
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

// ebs are the values that the ebs backend requires.
var ebs = []string{"backend=ebs", "ebs.clusterID=prod-1"}

// rename gives an object a name that does not collide with installed objects.
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

var zeros = strings.Repeat("0", 64)

// refusedValues maps values that the chart refuses to the place that the error must name.
var refusedValues = map[string]string{
	"backend=nfs":                       "/backend",
	"backend=ebs":                       "/ebs/clusterID",
	"nodeAgent=true":                    "nodeAgent",
	"node.agent=maybe":                  "/node/agent",
	"operator.replicas=-1":              "/operator/replicas",
	"operator.replicas=0":               "/operator/replicas",
	"controller.replicas=0":             "/controller/replicas",
	"registry=https://registry.example": "/registry",
	"registry=registry.example/":        "/registry",
	"images.registry=oci://x":           "/images/registry",
	"sidecars.registry=https://mirror":  "/sidecars/registry",
	"images.driver.digest=sha256:12":    "/images/driver/digest",
	"images.pinned=perhaps":             "/images/pinned",
	"snapshots.enabled=maybe":           "/snapshots/enabled",
	"images.driver.tag=v1@sha256:" + zeros + ",images.driver.digest=sha256:" + zeros: "/images/driver/digest",
	"operator.maxKeysPerNamespace=-1":                                                "/operator/maxKeysPerNamespace",
	"images.driver.tag=a b":                                                          "/images/driver/tag",
	"images.pullPolicy=Sometimes":                                                    "/images/pullPolicy",
	"kubeletDir=var/lib/kubelet":                                                     "/kubeletDir",
	"stateDir=/a/../b c":                                                             "/stateDir",
	"local.overcommit=0.5":                                                           "/local/overcommit",
	"logLevel=loud":                                                                  "/logLevel",
	"sidecars.leaderElection.leaseDuration=soon":                                     "/sidecars/leaderElection/leaseDuration",
	"storageClass.name=Sealvol":                                                      "/storageClass/name",
	"storageClass.reclaimPolicy=Recycle":                                             "/storageClass/reclaimPolicy",
	"storageClass.parameters.suite=rot13":                                            "/storageClass/parameters/suite",
	"storageClass.parameters.fsType=ext4":                                            "fsType",
	"storageClass.mountOptions={suid}":                                               "/storageClass/mountOptions/0",
	"keyImport.namespaces={Tenant}":                                                  "/keyImport/namespaces/0",
	"mounter.volumeMemoryBytes=1000":                                                 "/mounter/volumeMemoryBytes",
	"node.maxUnavailable=0%":                                                         "/node/maxUnavailable",
	"sidecars.provisioner=latest build":                                              "/sidecars/provisioner",
	"snapshotClass.deletionPolicy=Snapshot":                                          "/snapshotClass/deletionPolicy",
	"admissionPolicies.enabled=null":                                                 "admissionPolicies",
	"operator.resources.limits=null,crds=yes":                                        "/crds",
	// Values for EBS, with another backend.
	"ebs.region=eu-west-1":             "/ebs/region",
	"ebs.clusterID=prod":               "/ebs/clusterID",
	"ebs.tags.a=b":                     "/ebs/tags",
	"ebs.endpoints.ec2=https://x":      "/ebs/endpoints/ec2",
	"proxy.httpsProxy=http://p":        "/proxy/httpsProxy",
	"storageClass.parameters.type=gp3": "/storageClass/parameters",
	"extraStorageClasses[0].name=a,extraStorageClasses[0].parameters.type=gp3":                   "/extraStorageClasses/0/parameters",
	"volumeAttributesClasses[0].name=a,volumeAttributesClasses[0].parameters.type=gp3":           "/volumeAttributesClasses",
	"storageClass.parameters.tagSpecification_1=a=b":                                             "/storageClass/parameters",
	"storageClass.allowedTopologies[0].matchLabelExpressions[0].key=topology.kubernetes.io/zone": "/storageClass/allowedTopologies",
}

// refusedEBS is the same for the backend ebs.
var refusedEBS = map[string]string{
	"ebs.clusterID=a b":                    "/ebs/clusterID",
	"local.overcommit=2":                   "/local/overcommit",
	"ebs.endpoints.ec2=ec2.example":        "/ebs/endpoints/ec2",
	"ebs.tags.aws:x=y":                     "/ebs/tags",
	`ebs.tags.csi\.sealvol\.dev/cluster=y`: "/ebs/tags",
	`ebs.tags.a=b\,c`:                      "/ebs/tags/a",
	"ebs.volumeAttachLimit=9,ebs.reservedVolumeAttachments=2":                                "/ebs/reservedVolumeAttachments",
	"ebs.attachLimitUpdateSeconds=5":                                                         "/ebs/attachLimitUpdateSeconds",
	"ebs.metadataSources={dns}":                                                              "/ebs/metadataSources/0",
	"ebs.metadataSources={imds,imds}":                                                        "/ebs/metadataSources",
	"ebs.metadataSources=null":                                                               "metadataSources",
	"storageClass.parameters.iops=0":                                                         "/storageClass/parameters/iops",
	"storageClass.parameters.iops=5,storageClass.parameters.iopsPerGB=5":                     "/storageClass/parameters",
	"storageClass.parameters.kmsKeyId=alias/a":                                               "/storageClass/parameters",
	"storageClass.parameters.tagSpecification_1=team":                                        "/storageClass/parameters/tagSpecification_1",
	"volumeAttributesClasses[0].name=a":                                                      "/volumeAttributesClasses/0",
	"volumeAttributesClasses[0].name=a,volumeAttributesClasses[0].parameters.encrypted=true": "encrypted",
	"node.extraArgs={sys-dir}":                                                               "/node/extraArgs/0",
}

// TestRefused: the chart refuses wrong values before it renders anything, and names the place.
func TestRefused(t *testing.T) {
	values := maps.Clone(refusedValues)
	for value, want := range refusedEBS {
		values[strings.Join(ebs, ",")+","+value] = want
	}
	for value, want := range values {
		_, err := operatortest.Render(value)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", value, err)
		}
	}
}

// TestPromises: these properties hold with all values.
func TestPromises(t *testing.T) {
	list := render(t)
	checkAll(t, list)
	driver := find(t, list, "CSIDriver", "csi.sealvol.dev")
	for field, want := range map[string]any{"attachRequired": false, "requiresRepublish": true, "fsGroupPolicy": "File", "storageCapacity": true, "podInfoOnMount": false} {
		if got := at(t, driver, "spec", field); got != want {
			t.Errorf("CSIDriver: %s is %v", field, got)
		}
	}
}

// checkAll checks what holds with both backends.
func checkAll(t *testing.T, list []*unstructured.Unstructured) {
	t.Helper()
	for _, u := range list {
		switch u.GetKind() {
		case "CustomResourceDefinition":
			if u.GetAnnotations()["helm.sh/resource-policy"] != "keep" {
				t.Errorf("%s is deleted when the release is uninstalled, and all keys with it", u.GetName())
			}
		case "ClusterRole", "Role":
			checkRole(t, u)
		case "Deployment", "DaemonSet":
			checkPod(t, u)
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

// nodeRightsEBS checks that a node creates no objects, and has access only to nodes, events and
// SealedVolumes.
func nodeRightsEBS(t *testing.T, list []*unstructured.Unstructured) {
	t.Helper()
	for _, u := range list {
		if u.GetKind() == "Role" && u.GetName() == "sealvol-node" {
			t.Error("a node has a Role in the namespace")
		}
	}
	var role rbacv1.ClusterRole
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(find(t, list, "ClusterRole", "sealvol-node"), &role); err != nil {
		t.Fatal(err)
	}
	for _, r := range role.Rules {
		for _, x := range r.Resources {
			if !slices.Contains([]string{"nodes", "events", "sealedvolumes", "sealedvolumes/status"}, x) {
				t.Errorf("a node may %v %s", r.Verbs, x)
			}
		}
	}
}

// TestPromisesEBS: these properties hold with the ebs backend.
func TestPromisesEBS(t *testing.T) {
	list := render(t, slices.Concat(ebs, []string{"ebs.kmsKeyId=alias/ours", "ebs.tags.team=storage", "extraStorageClasses[0].name=plain", "extraStorageClasses[0].parameters.encrypted=false",
		"proxy.httpsProxy=http://proxy.example:3128", "ebs.fipsEndpoints=true", "ebs.caBundle=our-ca", `controller.serviceAccount.annotations.eks\.amazonaws\.com/role-arn=arn:aws:iam::111122223333:role/sealvol`})...)
	checkAll(t, list)
	driver := find(t, list, "CSIDriver", "csi.sealvol.dev")
	for field, want := range map[string]any{"attachRequired": true, "requiresRepublish": true, "fsGroupPolicy": "File", "storageCapacity": false, "nodeAllocatableUpdatePeriodSeconds": float64(300)} {
		if got := at(t, driver, "spec", field); got != want {
			t.Errorf("CSIDriver: %s is %v", field, got)
		}
	}
	controller := find(t, list, "Deployment", "sealvol-controller")
	if n := at(t, controller, "spec", "replicas"); n != float64(2) {
		t.Errorf("%v controllers", n)
	}
	find(t, list, "PodDisruptionBudget", "sealvol-controller")
	containers, ok := at(t, controller, "spec", "template", "spec", "containers").([]any)
	if !ok {
		t.Fatal(containers)
	}
	var names []string
	for _, c := range containers {
		args := fmt.Sprint(at(t, c, "args"))
		name := fmt.Sprint(at(t, c, "name"))
		names = append(names, name)
		if (name != "driver") != strings.Contains(args, "--leader-election ") {
			t.Errorf("%s: %s", name, args)
		}
		if name == "driver" && (!strings.Contains(args, "--cluster-id=prod-1") || !strings.Contains(args, "--volume-tags=team=storage") || !strings.Contains(args, "--backend=ebs")) {
			t.Error(args)
		}
	}
	if got := strings.Join(names, " "); got != "driver provisioner attacher resizer snapshotter" {
		t.Error(got)
	}
	for kind, name := range map[string]string{"Deployment": "sealvol-controller", "DaemonSet": "sealvol-node"} {
		env := fmt.Sprint(at(t, find(t, list, kind, name), "spec", "template", "spec", "containers", 0, "env"))
		for _, want := range []string{"AWS_USE_FIPS_ENDPOINT", "AWS_CA_BUNDLE", "HTTPS_PROXY"} {
			if !strings.Contains(env, want) {
				t.Errorf("%s has no %s: %s", name, want, env)
			}
		}
	}
	if a := at(t, find(t, list, "ServiceAccount", "sealvol-controller"), "metadata", "annotations", "eks.amazonaws.com/role-arn"); a != "arn:aws:iam::111122223333:role/sealvol" {
		t.Error(a)
	}
	if args := fmt.Sprint(at(t, find(t, list, "Deployment", "sealvol-operator"), "spec", "template", "spec", "containers", 0, "args")); !strings.Contains(args, "--attachments") {
		t.Error(args)
	}
	if p := at(t, find(t, list, "StorageClass", "sealvol"), "parameters", "kmsKeyId"); p != "alias/ours" {
		t.Error(p)
	}
	if p := at(t, find(t, list, "StorageClass", "plain"), "parameters", "kmsKeyId"); p != nil {
		t.Error(p)
	}
	nodeRightsEBS(t, list)
}

// TestOlderKubernetes: before Kubernetes 1.34, there are no VolumeAttributesClasses, and the limit
// of attachments cannot change.
func TestOlderKubernetes(t *testing.T) {
	out, err := operatortest.Helm("template", "sealvol", "charts/sealvol", "--namespace", operatortest.Namespace, "--kube-version", "1.33.5", "--set", strings.Join(ebs, ","))
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(out, []byte("--feature-gates=VolumeAttributesClass=false")); n != 2 || bytes.Contains(out, []byte("nodeAllocatableUpdatePeriodSeconds")) {
		t.Errorf("%d sidecars without VolumeAttributesClasses", n)
	}
}

// checkRole checks that only the operator may access Secrets, in its own namespace and, read-only,
// where tenants bind the role for key import, and that no role has wildcards.
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
				t.Errorf("%s %s gives access to Secrets", u.GetKind(), u.GetName())
			}
		}
	}
}

// checkPod checks that only the containers that mount are privileged, and that the others are
// confined.
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

// TestKustomize: config/default contains what helm renders, and the namespace.
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
		if u.GetAnnotations()["helm.sh/hook"] == "" && !got[id(u)] { // only helm has hooks
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

// TestLint: helm lint finds no problems.
func TestLint(t *testing.T) {
	if out, err := operatortest.Helm("lint", "--strict", "charts/sealvol"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
