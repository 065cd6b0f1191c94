package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// Key Secrets lie in the operator's namespace, where no quota of a tenant counts, and some stay when
// their VolumeKeys have gone. So their number is bounded for each tenant's namespace.

// wakeAtMost is how many VolumeKeys are tried again when a key Secret of their namespace has gone,
// which makes room for one.
const wakeAtMost = 16

// tenantOf is the namespace whose VolumeKey a key Secret is, or was, of.
func tenantOf(s metav1.Object) string {
	if s.GetLabels()[v1alpha1.RoleLabel] != v1alpha1.RoleKey {
		return ""
	}
	ns, _, _ := strings.Cut(s.GetAnnotations()[v1alpha1.OwnerAnnotation], "/")
	return ns
}

// making has the key Secrets that are being made, and that the cache does not show yet.
type making struct {
	mu    sync.Mutex
	names map[string]string // namespace of the VolumeKey by name of the Secret; guarded by mu
}

// add reserves a name, and returns what else was reserved for the namespace before.
func (m *making) add(name, namespace string) (others []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n, ns := range m.names {
		if ns == namespace && n != name {
			others = append(others, n)
		}
	}
	if m.names == nil {
		m.names = map[string]string{}
	}
	m.names[name] = namespace
	return others
}

func (m *making) forget(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.names, name)
}

// room tells whether a namespace has as many key Secrets as it may have, and else reserves one's
// name, until the cache shows it or forget.
func (o keys) room(ctx context.Context, namespace, name string) (*problem, error) {
	if o.MaxKeys == 0 {
		return nil, nil
	}
	others := o.making.add(name, namespace) // before the list: what is in neither was reserved later, and counts this one
	p, err := o.full(ctx, namespace, others)
	if p != nil || err != nil {
		o.making.forget(name)
	}
	return p, err
}

func (o keys) full(ctx context.Context, namespace string, others []string) (*problem, error) {
	var list metav1.PartialObjectMetadataList
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	if err := o.List(ctx, &list, client.InNamespace(o.Namespace), client.MatchingFields{byTenant: namespace}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("count keys: %w", err)
	}
	have := len(list.Items) + len(others)
	if len(others) > 0 {
		for i := range list.Items {
			if slices.Contains(others, list.Items[i].Name) {
				have--
			}
		}
	}
	if have < o.MaxKeys {
		return nil, nil
	}
	var kept []string
	for i := range list.Items {
		if s := &list.Items[i]; s.Labels[v1alpha1.KeptLabel] != "" {
			kept = append(kept, s.Name)
		}
	}
	slices.Sort(kept) // the cache has no order, and a message that changes brings the next one about
	msg := fmt.Sprintf("namespace %s has %d keys and may have no more: delete VolumeKeys or claims that are not needed", namespace, o.MaxKeys)
	if n := len(kept); n > 0 {
		msg = fmt.Sprintf("%s. Of %d of these keys nothing but the Secret in %s is left, such as %s: an administrator lists them (kubectl -n %[3]s get secret -l %[5]s=%[6]s) and deletes those that open nothing any more",
			msg, n, o.Namespace, strings.Join(kept[:min(n, 5)], ", "), v1alpha1.KeptLabel, namespace)
	}
	return &problem{v1alpha1.ReasonTooMany, msg + ". The limit is the operator's --max-keys-per-namespace (chart: operator.maxKeysPerNamespace)", false}, nil
}

// ofRoom finds VolumeKeys that wait until their namespace may have another key.
func (o keys) ofRoom(ctx context.Context, obj client.Object) []reconcile.Request {
	ns := tenantOf(obj)
	if ns == "" || o.MaxKeys == 0 {
		return nil
	}
	var list v1alpha1.VolumeKeyList
	if err := o.List(ctx, &list, client.InNamespace(ns), client.MatchingFields{byRefused: "true"}, client.Limit(wakeAtMost)); err != nil {
		o.Log.Error("keys that wait for room were not found", "namespace", ns, "error", err)
		return nil
	}
	var all []reconcile.Request
	for i := range list.Items {
		all = append(all, request(ns, list.Items[i].Name)...)
	}
	return all
}
