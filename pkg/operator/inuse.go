package operator

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// pageSize is the maximum number of objects in one response of the API server.
const pageSize = 500

// InUse lists the volumes that are in use, one sorted line each: those of pods that have not
// terminated, and those that are staged on a node, which the kubelet cannot unstage without the
// node plugin. c reads without a cache.
func InUse(ctx context.Context, c client.Client) ([]string, error) {
	claims, err := ourClaims(ctx, c)
	if err != nil {
		return nil, err
	}
	uses := map[string]string{} // by volume
	if err := stagedVolumes(ctx, c, uses); err != nil {
		return nil, err
	}
	for ns := range claims {
		if err := podsWith(ctx, c, ns, claims[ns], uses); err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Values(uses)), nil
}

// ourClaims maps namespaces and claims to the volumes of our driver that the claims are bound to.
func ourClaims(ctx context.Context, c client.Client) (map[string]map[string]string, error) {
	all := map[string]map[string]string{}
	var page corev1.PersistentVolumeList
	for {
		if err := c.List(ctx, &page, client.Limit(pageSize), client.Continue(page.Continue)); err != nil {
			return nil, fmt.Errorf("list PersistentVolumes: %w", err)
		}
		for i := range page.Items {
			pv := &page.Items[i]
			// The claim of a released volume was deleted; there may be another one of that name.
			if r := pv.Spec.ClaimRef; isOurs(pv) && r != nil && pv.Status.Phase != corev1.VolumeReleased {
				if all[r.Namespace] == nil {
					all[r.Namespace] = map[string]string{}
				}
				all[r.Namespace][r.Name] = pv.Name
			}
		}
		if page.Continue == "" {
			return all, nil
		}
	}
}

// isStaged tells whether a node reports that it uses a volume. It does not need PhaseStaged, which
// only a running operator sets. The report about a volume without a PersistentVolume may be outdated,
// because no node updates it.
func isStaged(v *v1alpha1.SealedVolume) bool {
	return v.Status.Node != "" && v.Status.Phase != v1alpha1.PhaseRetained && v.Status.Phase != v1alpha1.PhaseDeleted
}

func stagedVolumes(ctx context.Context, c client.Client, uses map[string]string) error {
	var page v1alpha1.SealedVolumeList
	for {
		err := c.List(ctx, &page, client.Limit(pageSize), client.Continue(page.Continue))
		if meta.IsNoMatchError(err) {
			return nil // the CRDs are gone, and with them the reports of the nodes
		}
		if err != nil {
			return fmt.Errorf("list SealedVolumes: %w", err)
		}
		for i := range page.Items {
			v := &page.Items[i]
			if !isStaged(v) {
				continue
			}
			whose := "no claim"
			if r := v.Spec.ClaimRef; r != nil {
				whose = "claim " + r.Namespace + "/" + r.Name
			}
			uses[v.Name] = fmt.Sprintf("%s of %s is staged on node %s", v.Name, whose, v.Status.Node)
		}
		if page.Continue == "" {
			return nil
		}
	}
}

// podsWith adds the volumes that the pods of a namespace use.
func podsWith(ctx context.Context, c client.Client, namespace string, claims, uses map[string]string) error {
	var page corev1.PodList
	for {
		if err := c.List(ctx, &page, client.InNamespace(namespace), client.Limit(pageSize), client.Continue(page.Continue)); err != nil {
			return fmt.Errorf("list pods of namespace %s: %w", namespace, err)
		}
		for i := range page.Items {
			p := &page.Items[i]
			if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.Spec.NodeName == "" {
				continue
			}
			for _, v := range p.Spec.Volumes {
				if pv := claims[claimOf(p, &v)]; pv != "" {
					uses[pv] = fmt.Sprintf("%s of claim %s/%s is used by pod %s on node %s", pv, namespace, claimOf(p, &v), p.Name, p.Spec.NodeName)
				}
			}
		}
		if page.Continue == "" {
			return nil
		}
	}
}

// claimOf returns the name of the claim behind a volume of a pod, or "" if it has none.
func claimOf(p *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return p.Name + "-" + v.Name // the documented name for generic ephemeral volumes
	}
	return ""
}
