package matrixtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

// These are the users that make attempts. Node a has another tenant's volume; node b is
// compromised.
const (
	admin      = "administrator"
	overrider  = "user with the verb override-anchor"
	tenant     = "tenant"                 // may edit its namespace, crm, and the VolumeKeys there
	nodeA      = "node token of a"        // the token of the node plugin's pod on node a
	nodeB      = "node token"             // the same of node b
	nowhere    = "node token without pod" // one that is not bound to a pod
	kubeletA   = "kubelet of a"
	kubeletB   = "kubelet"
	controller = "controller"
	operators  = "operator"
	mounter    = "mounter"

	tenantAsOperator = "tenant impersonating the operator"
)

// world is an API server with the objects of a cluster: two nodes, the tenant's namespace crm, and
// another tenant's namespace shop.
type world struct {
	env     *operatortest.Env
	backend string
	clients map[string]dynamic.Interface
	names   map[string]string         // values of ${name} in requests
	objects map[string]map[string]any // templates for objects that requests create

	mu       sync.Mutex
	warnings []string // guarded by mu
}

// HandleWarningHeader records the warnings of the API server.
func (w *world) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.warnings = append(w.warnings, text)
}

// warned returns the warnings since its last call.
func (w *world) warned() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := strings.Join(w.warnings, "\n")
	w.warnings = nil
	return s
}

func newWorld(t *testing.T, backend string, values ...string) *world {
	t.Helper()
	env, err := operatortest.Start(values...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	w := &world{env: env, backend: backend, clients: map[string]dynamic.Interface{}, names: map[string]string{}, objects: map[string]map[string]any{}}
	w.addClients(t)
	w.populate(t)
	w.shadow(t, values)
	return w
}

func (w *world) addClients(t *testing.T) {
	t.Helper()
	add := func(who string, c *rest.Config, err error) {
		if err == nil {
			c = rest.CopyConfig(c)
			c.WarningHandler = w
			w.clients[who], err = dynamic.NewForConfig(c)
		}
		if err != nil {
			t.Fatal(who, err)
		}
	}
	add(admin, w.env.Config, nil)
	for who, name := range map[string][]string{tenant: {"tenant"}, overrider: {"overrider"}, kubeletA: {"system:node:node-a", "system:nodes"}, kubeletB: {"system:node:node-b", "system:nodes"}} {
		c, err := w.env.User(name[0], name[1:]...)
		add(who, c, err)
	}
	for who, account := range map[string][2]string{nodeA: {"node", "node-a"}, nodeB: {"node", "node-b"}, nowhere: {"node", ""},
		controller: {"controller", "node-a"}, operators: {"operator", "node-a"}, mounter: {"mounter", "node-b"}} {
		c, err := w.env.As(t.Context(), account[0], account[1])
		add(who, c, err)
	}
	c, err := w.env.User("tenant")
	if err == nil {
		c.Impersonate.UserName = "system:serviceaccount:" + operatortest.Namespace + ":sealvol-operator"
	}
	add(tenantAsOperator, c, err)
}

// shadow creates a copy of each policy of the chart. The copies refuse nothing and warn about every
// request that the policy evaluates.
func (w *world) shadow(t *testing.T, values []string) {
	t.Helper()
	for _, name := range policies(t, values) {
		t1 := target{gvr: groups["validatingadmissionpolicies"].WithResource("validatingadmissionpolicies"), name: name}
		p, err := t1.in(w.clients[admin]).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		spec, ok := p.Object["spec"].(map[string]any)
		if !ok {
			t.Fatal(p.Object)
		}
		delete(spec, "variables")
		spec["validations"] = []any{map[string]any{"expression": "false", "message": "seen"}}
		w.make(t, "validatingadmissionpolicies", map[string]any{"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
			"metadata": map[string]any{"name": "seen-" + name}, "spec": spec})
		w.make(t, "validatingadmissionpolicybindings", map[string]any{"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
			"metadata": map[string]any{"name": "seen-" + name}, "spec": map[string]any{"policyName": "seen-" + name, "validationActions": []any{"Warn"}}})
	}
}

// policies returns the names of the policies that the chart renders.
func policies(t *testing.T, values []string) (names []string) {
	t.Helper()
	list, err := operatortest.Render(values...)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range list {
		if u.GetKind() == "ValidatingAdmissionPolicy" {
			names = append(names, u.GetName())
		}
	}
	slices.Sort(names)
	return names
}

// make creates an object with its status.
func (w *world) make(t *testing.T, resource string, object map[string]any) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{Object: object}
	u = u.DeepCopy()
	at := parseTarget(resource)
	at.namespace = u.GetNamespace()
	api := at.in(w.clients[admin])
	status := u.Object["status"]
	made, err := api.Create(t.Context(), u, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("%s %s: %v", resource, u.GetName(), err)
	}
	if status == nil {
		return made
	}
	made.Object["status"] = status
	made, err = api.UpdateStatus(t.Context(), made, metav1.UpdateOptions{})
	if err != nil {
		t.Fatalf("status of %s %s: %v", resource, u.GetName(), err)
	}
	return made
}

// yaml creates objects from a stream of YAML, after expanding ${name}, and returns the last one.
func (w *world) yaml(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	list, err := operatortest.Parse([]byte(w.expand(text)))
	if err != nil {
		t.Fatal(err)
	}
	var last *unstructured.Unstructured
	for _, u := range list {
		last = w.make(t, resources[u.GetKind()], u.Object)
	}
	return last
}

// resources maps kinds to resources.
var resources = map[string]string{
	"Namespace": "namespaces", "PersistentVolumeClaim": "persistentvolumeclaims", "PersistentVolume": "persistentvolumes", "Secret": "secrets", "Pod": "pods",
	"SealedVolume": "sealedvolumes", "VolumeKey": "volumekeys", "VolumeSnapshotContent": "volumesnapshotcontents", "VolumeAttachment": "volumeattachments",
	"CSIStorageCapacity": "csistoragecapacities", "Event": "events", "Lease": "leases", "RoleBinding": "rolebindings", "ClusterRoleBinding": "clusterrolebindings",
	"ClusterRole": "clusterroles", "CSINode": "csinodes",
}

// eventually repeats f until it returns nil. New policies and roles take a moment to have an
// effect.
func eventually(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("timed out: %w", err)
		}
	}
}
