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

// Key Secrets are in the operator's namespace, where a tenant's ResourceQuota does not count them,
// and some outlive their VolumeKeys. So the operator limits their number for each tenant's
// namespace.

// maxWoken is the maximum number of waiting VolumeKeys that are reconciled when a key Secret of
// their namespace is deleted. Only one of them gets its place.
const maxWoken = 16

// tenantOf returns the namespace of the VolumeKey that a key Secret belongs or belonged to.
func tenantOf(s metav1.Object) string {
	if s.GetLabels()[v1alpha1.RoleLabel] != v1alpha1.RoleKey {
		return ""
	}
	ns, _, _ := strings.Cut(s.GetAnnotations()[v1alpha1.OwnerAnnotation], "/")
	return ns
}

// pendingSecrets are the key Secrets that are being created and that the cache does not have yet.
type pendingSecrets struct {
	mu    sync.Mutex
	names map[string]string // namespace of the VolumeKey by name of the Secret; guarded by mu
}

// add reserves a name, and returns the other names that are reserved for the namespace.
func (m *pendingSecrets) add(name, namespace string) (others []string) {
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

func (m *pendingSecrets) forget(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.names, name)
}

// reserve reserves the name of a key Secret until the cache has the Secret or forget is called. It
// returns a problem if the namespace has reached its limit.
func (o keys) reserve(ctx context.Context, namespace, name string) (*problem, error) {
	if o.MaxKeys == 0 {
		return nil, nil
	}
	// Reserve before listing. A Secret that is in neither of the two was reserved later, and its
	// reservation counts this one.
	others := o.pending.add(name, namespace)
	p, err := o.checkLimit(ctx, namespace, others)
	if p != nil || err != nil {
		o.pending.forget(name)
	}
	return p, err
}

// checkLimit returns a problem if a namespace has reached its limit of key Secrets. others are the
// reserved names.
func (o keys) checkLimit(ctx context.Context, namespace string, others []string) (*problem, error) {
	var list metav1.PartialObjectMetadataList
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	if err := o.List(ctx, &list, client.InNamespace(o.Namespace), client.MatchingFields{byTenant: namespace}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list key Secrets: %w", err)
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
	// The cache has no order; a changed message would trigger the next reconciliation.
	slices.Sort(kept)
	msg := fmt.Sprintf("namespace %s has reached its limit of %d keys. Delete VolumeKeys or claims that you do not need", namespace, o.MaxKeys)
	if n := len(kept); n > 0 {
		msg = fmt.Sprintf("%s. For %d of these keys, only the Secret in namespace %s is left, for example %s. An administrator can list them (kubectl -n %[3]s get secret -l %[5]s=%[6]s) and delete those that no volume or backup needs",
			msg, n, o.Namespace, strings.Join(kept[:min(n, 5)], ", "), v1alpha1.KeptLabel, namespace)
	}
	return &problem{v1alpha1.ReasonTooMany, msg + ". The chart value operator.maxKeysPerNamespace sets the limit", false}, nil
}

// waitingForLimit finds VolumeKeys that wait because their namespace has reached its limit.
func (o keys) waitingForLimit(ctx context.Context, obj client.Object) []reconcile.Request {
	ns := tenantOf(obj)
	if ns == "" || o.MaxKeys == 0 {
		return nil
	}
	var list v1alpha1.VolumeKeyList
	if err := o.List(ctx, &list, client.InNamespace(ns), client.MatchingFields{byRefused: "true"}, client.Limit(maxWoken)); err != nil {
		o.Log.Error("cannot list the VolumeKeys that wait because of the limit of keys", "namespace", ns, "error", err)
		return nil
	}
	var all []reconcile.Request
	for i := range list.Items {
		all = append(all, request(ns, list.Items[i].Name)...)
	}
	return all
}
