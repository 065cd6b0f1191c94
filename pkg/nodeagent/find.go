package nodeagent

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// errNoVolume: the API has no SealedVolume with that handle for this node.
var errNoVolume = errors.New("no SealedVolume of this volume belongs to this node")

// find returns the SealedVolume of a volume of this node, from the cache or from the API server.
func (a *Agent) find(ctx context.Context, r client.Reader, id string) (*v1alpha1.SealedVolume, error) {
	return a.findAt(ctx, r, id, false)
}

// findAt does the same, and with anywhere also finds a volume of another node.
func (a *Agent) findAt(ctx context.Context, r client.Reader, id string, anywhere bool) (*v1alpha1.SealedVolume, error) {
	var list v1alpha1.SealedVolumeList
	if err := r.List(ctx, &list, client.MatchingFields{fieldHandle: id}); err != nil {
		return nil, fmt.Errorf("find the SealedVolume: %w", err)
	}
	var newest *v1alpha1.SealedVolume
	for i := range list.Items {
		// A volume may have several SealedVolumes if it had several PersistentVolumes. Use those
		// that have a PersistentVolume now, and of these the one with the newest anchor: the volume
		// itself forgets old anchors.
		sv := &list.Items[i]
		if (anywhere || sv.Spec.NodeName == a.opt.Node) && sv.Status.Phase != v1alpha1.PhaseRetained && sv.Status.Phase != v1alpha1.PhaseDeleted && (newest == nil || isNewer(sv, newest)) {
			newest = sv
		}
	}
	if newest == nil {
		return nil, errNoVolume
	}
	return newest, nil
}

// isNewer tells which of two SealedVolumes of one volume to use.
func isNewer(x, y *v1alpha1.SealedVolume) bool {
	of := func(sv *v1alpha1.SealedVolume) (generation, epoch int64) {
		if sv.Status.Anchor == nil {
			return 0, 0
		}
		return sv.Status.Anchor.Generation, sv.Status.Anchor.Epoch
	}
	gx, ex := of(x)
	gy, ey := of(y)
	return cmp.Or(cmp.Compare(gx, gy), cmp.Compare(ex, ey), -cmp.Compare(x.Name, y.Name)) > 0
}

func handleOf(o client.Object) []string {
	if sv, ok := o.(*v1alpha1.SealedVolume); ok && sv.Spec.VolumeHandle != "" {
		return []string{sv.Spec.VolumeHandle}
	}
	return nil
}

// claimOf returns the object for events, or nil if there is none.
func claimOf(sv *v1alpha1.SealedVolume) *corev1.ObjectReference {
	c := sv.Spec.ClaimRef
	if c == nil {
		return nil
	}
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: c.Namespace, Name: c.Name, UID: typesUID(c.UID)}
}
