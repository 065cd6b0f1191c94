package operator

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// If volumes move, a VolumeAttachment names the node of a volume. Only Kubernetes' attach-detach
// controller creates VolumeAttachments, so a node cannot claim a volume for itself. While a volume
// has no VolumeAttachment, no node may write its status or anchor.

// attachedVolume returns the name of the PersistentVolume of one of our VolumeAttachments, or "".
func attachedVolume(a *storagev1.VolumeAttachment) string {
	if a.Spec.Attacher != DriverName || a.Spec.Source.PersistentVolumeName == nil {
		return ""
	}
	return *a.Spec.Source.PersistentVolumeName
}

// ofAttachment finds the volume of a VolumeAttachment.
func (o volumes) ofAttachment(_ context.Context, obj client.Object) []reconcile.Request {
	a, ok := obj.(*storagev1.VolumeAttachment)
	if !ok {
		return nil
	}
	return requestsFor(attachedVolume(a))
}

// findNode sets v.node, the one node that may use the PersistentVolume now.
func (o volumes) findNode(ctx context.Context, v *volume) error {
	if !v.moves {
		v.node = nodeOf(v.pv)
		return nil
	}
	var list storagev1.VolumeAttachmentList
	if err := o.List(ctx, &list, client.MatchingFields{byAttached: v.name}); err != nil {
		return fmt.Errorf("list VolumeAttachments: %w", err)
	}
	before := ""
	if v.sealed != nil {
		before = v.sealed.Spec.NodeName
	}
	v.node = nodeAmong(list.Items, before)
	return nil
}

// nodeAmong chooses the node among a volume's attachments. There is usually only one; during a
// move, there may be two for a short time. It prefers, in this order, one that is not being
// deleted, one that is complete, the node that had the volume before, and the older one.
func nodeAmong(list []storagev1.VolumeAttachment, before string) string {
	if len(list) == 0 {
		return ""
	}
	first := slices.MinFunc(list, func(a, b storagev1.VolumeAttachment) int {
		return cmp.Or(
			falseFirst(a.DeletionTimestamp != nil, b.DeletionTimestamp != nil),
			falseFirst(!a.Status.Attached, !b.Status.Attached),
			falseFirst(a.Spec.NodeName != before, b.Spec.NodeName != before),
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			cmp.Compare(a.Name, b.Name))
	})
	return first.Spec.NodeName
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// clearLostNode removes the report of a node that no longer has the volume. A node that failed
// cannot do that itself.
func (v *volume) clearLostNode() {
	s := &v.sealed.Status
	if !v.moves || s.Node == "" || s.Node == v.sealed.Spec.NodeName {
		return
	}
	s.Node, s.Health = "", ""
	meta.RemoveStatusCondition(&s.Conditions, v1alpha1.VolumeHealthy)
}
