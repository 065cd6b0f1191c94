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

// Volumes that move are where a VolumeAttachment says, which Kubernetes' attach-detach controller alone makes: no node can say of itself that it has a
// volume. With the last of them the volume is nowhere, and nobody may write its status or anchor.

// attachedVolume is the PersistentVolume of a VolumeAttachment of ours.
func attachedVolume(a *storagev1.VolumeAttachment) string {
	if a.Spec.Attacher != DriverName || a.Spec.Source.PersistentVolumeName == nil {
		return ""
	}
	return *a.Spec.Source.PersistentVolumeName
}

// ofAttachment finds the volume that is attached, or was.
func (o volumes) ofAttachment(_ context.Context, obj client.Object) []reconcile.Request {
	a, ok := obj.(*storagev1.VolumeAttachment)
	if !ok {
		return nil
	}
	return named(attachedVolume(a))
}

// findNode finds the one node that may use a PersistentVolume now.
func (o volumes) findNode(ctx context.Context, v *volume) error {
	if !v.moves {
		v.node = nodeOf(v.pv)
		return nil
	}
	var list storagev1.VolumeAttachmentList
	if err := o.List(ctx, &list, client.MatchingFields{byAttached: v.name}); err != nil {
		return fmt.Errorf("find where the volume is attached: %w", err)
	}
	before := ""
	if v.sealed != nil {
		before = v.sealed.Spec.NodeName
	}
	v.node = nodeAmong(list.Items, before)
	return nil
}

// nodeAmong chooses among a volume's attachments, of which there is one at a time but in passing: one that comes before one that goes, one that is
// complete, the node that had the volume before, the older one.
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

// leave takes back what a node has said of a volume that it does not have any more: a node that was lost can not.
func (v *volume) leave() {
	s := &v.sealed.Status
	if !v.moves || s.Node == "" || s.Node == v.sealed.Spec.NodeName {
		return
	}
	s.Node, s.Health = "", ""
	meta.RemoveStatusCondition(&s.Conditions, v1alpha1.VolumeHealthy)
}
