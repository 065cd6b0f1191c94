package operatortest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/sealvol/sealvol/pkg/operator"
)

// Namespace is the namespace of the release, and Class the StorageClass that its chart creates.
const (
	Namespace = "sealvol-system"
	Class     = "sealvol"
)

// Env is an API server with the objects of the chart.
type Env struct {
	Config *rest.Config  // has all rights
	Client client.Client // the same, without a cache
	env    *envtest.Environment
}

// Bin returns the directory with the programs of the test cluster.
func Bin() string {
	cache := os.Getenv("CLUSTER_CACHE")
	if cache == "" {
		home, _ := os.UserHomeDir()
		cache = filepath.Join(home, ".cache", "cluster")
	}
	return filepath.Join(cache, "bin")
}

// Root returns the directory of the project.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..")
}

// Main is a TestMain. It starts an API server, passes it to set, and runs the tests of a package.
// If all tests ran and passed, it runs check.
func Main(m *testing.M, set func(*Env), check func() error) {
	code, err := run(m, set, check)
	if err != nil {
		fmt.Fprintln(os.Stderr, "operatortest:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M, set func(*Env), check func() error) (code int, err error) {
	e, err := Start()
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, e.Stop()) }()
	set(e)
	code = m.Run()
	if f := flag.Lookup("test.run"); code == 0 && f.Value.String() == "" {
		err = check()
	}
	return code, err
}

// Start starts the API server and applies the rendered chart. values are arguments of helm's --set.
func Start(values ...string) (e *Env, err error) {
	for _, p := range []string{"kube-apiserver", "etcd", "helm"} {
		if _, err := os.Stat(filepath.Join(Bin(), p)); err != nil {
			return nil, fmt.Errorf("%w: run make envtest, which builds it", err)
		}
	}
	crds, err := snapshotCRDs()
	if err != nil {
		return nil, err
	}
	env := &envtest.Environment{BinaryAssetsDirectory: Bin(), CRDDirectoryPaths: []string{crds}, ErrorIfCRDPathMissing: true,
		ControlPlaneStartTimeout: time.Minute, ControlPlaneStopTimeout: time.Minute}
	// As in real clusters, a kubelet has access only to the objects of its node.
	env.ControlPlane.GetAPIServer().Configure().Set("authorization-mode", "Node", "RBAC").Append("enable-admission-plugins", "NodeRestriction")
	e = &Env{env: env}
	if e.Config, err = env.Start(); err != nil {
		return nil, errors.Join(err, env.Stop())
	}
	e.Config.QPS, e.Config.Burst = -1, -1
	scheme, err := operator.Scheme()
	if err == nil {
		e.Client, err = client.New(e.Config, client.Options{Scheme: scheme})
	}
	if err == nil {
		err = e.install(values)
	}
	if err != nil {
		return nil, errors.Join(err, e.Stop())
	}
	return e, nil
}

// Stop stops the API server.
func (e *Env) Stop() error { return e.env.Stop() }

// snapshotCRDs returns the directory of the snapshot CRDs, in the module that go.mod names.
func snapshotCRDs() (string, error) {
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/kubernetes-csi/external-snapshotter/client/v8")
	cmd.Dir = Root()
	out, err := cmd.Output()
	return filepath.Join(strings.TrimSpace(string(out)), "config", "crd"), err
}

// Helm runs helm and returns its output.
func Helm(args ...string) ([]byte, error) {
	var stderr bytes.Buffer
	cmd := exec.Command(filepath.Join(Bin(), "helm"), args...)
	cmd.Dir, cmd.Stderr = Root(), &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("helm %s: %w: %s", args[0], err, stderr.String())
	}
	return out, err
}

// Render renders the chart. values are arguments of helm's --set.
func Render(values ...string) ([]*unstructured.Unstructured, error) {
	args := []string{"template", "sealvol", "charts/sealvol", "--namespace", Namespace, "--no-hooks", "--kube-version", "1.36.0"}
	for _, v := range values {
		args = append(args, "--set", v)
	}
	out, err := Helm(args...)
	if err != nil {
		return nil, err
	}
	return Parse(out)
}

// Parse reads a stream of YAML documents.
func Parse(b []byte) (list []*unstructured.Unstructured, err error) {
	for _, doc := range bytes.Split(append([]byte("\n"), b...), []byte("\n---")) {
		var u unstructured.Unstructured
		if err := yaml.Unmarshal(doc, &u.Object); err != nil {
			return nil, err
		}
		if len(u.Object) > 0 {
			list = append(list, &u)
		}
	}
	return list, nil
}

// install applies the chart, CRDs first.
func (e *Env) install(values []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace}}
	if err := e.Client.Create(ctx, ns); err != nil {
		return err
	}
	list, err := Render(values...)
	if err != nil {
		return err
	}
	first := func(u *unstructured.Unstructured) int {
		return slices.Index([]string{"", "Namespace", "CustomResourceDefinition"}, u.GetKind())
	}
	slices.SortStableFunc(list, func(a, b *unstructured.Unstructured) int { return first(b) - first(a) })
	for _, u := range list {
		if err := e.Apply(ctx, u); err != nil {
			return fmt.Errorf("%s %s: %w", u.GetKind(), u.GetName(), err)
		}
	}
	return e.awaitDefinitions(ctx)
}

// awaitDefinitions waits until the API server serves our resources.
func (e *Env) awaitDefinitions(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var l unstructured.UnstructuredList
		l.SetAPIVersion("sealvol.dev/v1alpha1")
		l.SetKind("SealedVolumeList")
		err := e.Client.List(ctx, &l)
		l.SetKind("VolumeKeyList")
		if err = errors.Join(err, e.Client.List(ctx, &l)); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// Apply creates or updates an object.
func (e *Env) Apply(ctx context.Context, u *unstructured.Unstructured) error {
	err := e.Client.Create(ctx, u.DeepCopy())
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		old := u.DeepCopy()
		if err := e.Client.Get(ctx, client.ObjectKeyFromObject(u), old); err != nil {
			return err
		}
		u = u.DeepCopy()
		u.SetResourceVersion(old.GetResourceVersion())
		return e.Client.Update(ctx, u)
	})
}

// As returns a client configuration with the token of a service account of the release: "operator",
// "controller", "node" or "mounter". If node is not empty, the token is bound to a pod on that
// node, like the tokens that a kubelet gets.
func (e *Env) As(ctx context.Context, account, node string) (*rest.Config, error) {
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: "sealvol-" + account}}
	tr := &authenticationv1.TokenRequest{}
	if node != "" {
		pod, err := e.pod(ctx, sa.Name, node)
		if err != nil {
			return nil, err
		}
		tr.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}
	}
	if err := e.Client.SubResource("token").Create(ctx, sa, tr); err != nil {
		return nil, err
	}
	c := rest.AnonymousClientConfig(e.Config)
	c.BearerToken = tr.Status.Token
	c.QPS, c.Burst = -1, -1
	return c, nil
}

// User returns a client configuration with the certificate of a user. The user of a kubelet is
// system:node:<node>, in the group system:nodes.
func (e *Env) User(name string, groups ...string) (*rest.Config, error) {
	u, err := e.env.AddUser(envtest.User{Name: name, Groups: groups}, nil)
	if err != nil {
		return nil, err
	}
	c := rest.CopyConfig(u.Config())
	c.QPS, c.Burst = -1, -1
	return c, nil
}

// pod creates a pod that is assigned to a node. No kubelet runs it.
func (e *Env) pod(ctx context.Context, account, node string) (*corev1.Pod, error) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}
	if err := e.Client.Create(ctx, n); err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, err
	}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: account + "-" + node},
		Spec: corev1.PodSpec{ServiceAccountName: account, NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	err := e.Client.Create(ctx, p)
	if apierrors.IsAlreadyExists(err) {
		err = e.Client.Get(ctx, client.ObjectKeyFromObject(p), p)
	}
	return p, err
}

// WriteKubeconfig writes a client configuration to a file.
func WriteKubeconfig(path string, c *rest.Config) error {
	k := clientcmdapi.NewConfig()
	k.Clusters["c"] = &clientcmdapi.Cluster{Server: c.Host, CertificateAuthorityData: c.CAData}
	k.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: c.BearerToken, ClientCertificateData: c.CertData, ClientKeyData: c.KeyData}
	k.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	k.CurrentContext = "x"
	return clientcmd.WriteToFile(*k, path)
}

// Claim returns a claim of the chart's class.
func Claim(namespace, name string) *corev1.PersistentVolumeClaim {
	class := Class
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}
}

// Volume returns the PersistentVolume that csi-provisioner would create for a claim on a node.
func Volume(c *corev1.PersistentVolumeClaim, node string, policy corev1.PersistentVolumeReclaimPolicy) *corev1.PersistentVolume {
	name := "pvc-" + string(c.UID)
	ref := &corev1.SecretReference{Namespace: Namespace, Name: name}
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: Class, PersistentVolumeReclaimPolicy: policy, AccessModes: c.Spec.AccessModes,
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			ClaimRef: &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: c.Namespace, Name: c.Name, UID: c.UID},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: operator.DriverName,
				VolumeHandle: "vol-" + string(c.UID), NodeStageSecretRef: ref, NodePublishSecretRef: ref, NodeExpandSecretRef: ref}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "topology.csi.sealvol.dev/node", Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}}},
		}}
}

// ClassOf returns the chart's class with another name and reclaim policy.
func ClassOf(name string, policy corev1.PersistentVolumeReclaimPolicy) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: operator.DriverName, ReclaimPolicy: &policy,
		Parameters: map[string]string{"csi.storage.k8s.io/node-stage-secret-name": "${pv.name}", "csi.storage.k8s.io/node-stage-secret-namespace": Namespace}}
}
