package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// The origin of a volume is the volume that it is a copy of, or the same as, and whose key opens
// it. The creator of a PersistentVolume may write anything into it. So an origin counts only if it
// is on the same node (unless volumes move), and in the same namespace (unless an administrator has
// granted the key to another one).

// origin returns the SealedVolume of a volume's origin, or nil if it has none.
func (o volumes) origin(ctx context.Context, v *volume) (*v1alpha1.SealedVolume, *problem, error) {
	if v.pv != nil {
		if h := v.pv.Spec.CSI.VolumeAttributes[attributeKeyVolume]; h != "" {
			return o.originOfCopy(ctx, v, h, fmt.Sprintf("the volume is a copy that needs the key of volume %s, but no SealedVolume with that key exists. If you have a backup of the SealedVolume, restore it", h))
		}
		if sv, p, err := o.originAmong(ctx, v, byHandle, v.pv.Spec.CSI.VolumeHandle); sv != nil || p != nil || err != nil {
			return sv, p, err
		}
	}
	if v.claim == nil || v.claim.Spec.VolumeName != "" {
		return nil, nil, nil // the PersistentVolume of a copy would have named the origin
	}
	kind, name := source(v.claim)
	switch kind {
	case "PersistentVolumeClaim":
		return o.originOfClaim(ctx, v, name)
	case "VolumeSnapshot":
		return o.originOfSnapshot(ctx, v, name)
	}
	return nil, nil, nil
}

// isOnOtherNode tells whether a volume is on another node than the volume that it claims to be a
// copy of, or the same as. That cannot be true. Nodes create PersistentVolumes (a policy restricts
// them to their own) and must not get the keys of other nodes in this way. If volumes move, nodes
// create none.
func (v *volume) isOnOtherNode(origin *v1alpha1.SealedVolume) bool {
	if v.moves {
		return false
	}
	node := v.snapshotNode
	if v.pv != nil {
		node = v.node
	} else if node == "" {
		return false
	}
	return origin.Spec.NodeName != "" && node != origin.Spec.NodeName
}

// namespace returns the namespace of the claim that has the volume or will have it, or "".
func (v *volume) namespace() string {
	switch {
	case v.claim != nil:
		return v.claim.Namespace
	case v.pv != nil && v.pv.Spec.ClaimRef != nil:
		return v.pv.Spec.ClaimRef.Namespace
	}
	return ""
}

// mayShare tells whether a namespace may have the key of a volume: the namespace of the volume or
// of its VolumeKey, or one to which an administrator has granted the key.
func mayShare(sv *v1alpha1.SealedVolume, namespace string) bool {
	if namespace == "" {
		return false
	}
	if c, k := sv.Spec.ClaimRef, sv.Spec.Key; c != nil && c.Namespace == namespace || k != nil && k.Namespace == namespace {
		return true
	}
	granted := strings.FieldsFunc(sv.Annotations[v1alpha1.GrantAnnotation], func(r rune) bool { return r == ',' || r == ' ' })
	return slices.Contains(granted, namespace)
}

// notGranted tells what to do. It does not name the owner of the key, because the owner of the
// claim reads the message, too.
func notGranted(sv *v1alpha1.SealedVolume, namespace string) *problem {
	return &problem{v1alpha1.ReasonNotGranted, fmt.Sprintf("the key of this volume does not belong to namespace %[2]s, so a claim there does not get it. To allow it, an administrator runs: "+
		"kubectl annotate sealedvolume %[1]s %[3]s=%[2]s", sv.Name, namespace, v1alpha1.GrantAnnotation), false}
}

// originOfCopy finds the origin by the handle that a copy names: that volume, or another copy of
// it.
func (o volumes) originOfCopy(ctx context.Context, v *volume, handle, unknown string) (*v1alpha1.SealedVolume, *problem, error) {
	var refused *problem
	for _, index := range []string{byHandle, byKeyVolume} {
		sv, p, err := o.originAmong(ctx, v, index, handle)
		if sv != nil || err != nil {
			return sv, nil, err
		}
		if refused == nil {
			refused = p
		}
	}
	if refused == nil {
		refused = &problem{v1alpha1.ReasonSourceUnknown, unknown, false}
	}
	return nil, refused, nil
}

// originAmong returns the first volume that an index finds and whose key v may have. It returns a
// problem if volumes were found, but v's namespace may not have their key. Then v gets no other key
// either.
func (o volumes) originAmong(ctx context.Context, v *volume, index, handle string) (*v1alpha1.SealedVolume, *problem, error) {
	var list v1alpha1.SealedVolumeList
	if err := o.List(ctx, &list, client.MatchingFields{index: handle}); err != nil {
		return nil, nil, err
	}
	inOrder(list.Items)
	var refused *problem
	for i := range list.Items {
		sv := &list.Items[i]
		switch {
		case sv.Name == v.name || !hasKey(sv) || v.isOnOtherNode(sv):
		case mayShare(sv, v.namespace()):
			return sv, nil, nil
		case refused != nil: // the message names the first one
		case v.namespace() == "":
			refused = &problem{v1alpha1.ReasonNoKey, "the volume has no claim yet. It gets its key when a claim is bound to it", false}
		default:
			refused = notGranted(sv, v.namespace())
		}
	}
	return nil, refused, nil
}

// inOrder sorts a list from the cache, which has no order. Otherwise, a message that names one of
// several volumes would change each time, and each change would trigger the next reconciliation.
func inOrder(list []v1alpha1.SealedVolume) {
	slices.SortFunc(list, func(a, b v1alpha1.SealedVolume) int { return strings.Compare(a.Name, b.Name) })
}

func (o volumes) originOfClaim(ctx context.Context, v *volume, name string) (*v1alpha1.SealedVolume, *problem, error) {
	var c corev1.PersistentVolumeClaim
	err := o.Get(ctx, client.ObjectKey{Namespace: v.claim.Namespace, Name: name}, &c)
	if err != nil {
		return nil, &problem{v1alpha1.ReasonSourceUnknown, fmt.Sprintf("the claim is a copy of claim %s, which does not exist. Create that claim first, or delete this one", name), false}, client.IgnoreNotFound(err)
	}
	wait := &problem{v1alpha1.ReasonKeyNotReady, fmt.Sprintf("the claim is a copy of claim %s, which has no key yet", name), false}
	var sv v1alpha1.SealedVolume
	err = o.Get(ctx, client.ObjectKey{Name: volumeName(&c)}, &sv)
	// A claim may name a volume that it is never bound to.
	if err != nil || !hasKey(&sv) || !isOf(&sv, &c) {
		return nil, wait, client.IgnoreNotFound(err)
	}
	if v.isOnOtherNode(&sv) {
		return nil, wrongNode(&sv, v.node), nil
	}
	return &sv, nil, nil
}

func (o volumes) originOfSnapshot(ctx context.Context, v *volume, name string) (*v1alpha1.SealedVolume, *problem, error) {
	unknown := fmt.Sprintf("the claim is restored from snapshot %s, but the source volume of the snapshot has no SealedVolume with a key. If you have a backup of the SealedVolume, restore it", name)
	if !o.Snapshots {
		return nil, &problem{v1alpha1.ReasonSourceUnknown, fmt.Sprintf("the claim is restored from snapshot %s, but the operator runs without snapshots (chart value snapshots.enabled). Run helm upgrade", name), false}, nil
	}
	wait := &problem{v1alpha1.ReasonKeyNotReady, fmt.Sprintf("the claim is restored from snapshot %s, which does not exist or is not complete yet", name), false}
	var s snapshotv1.VolumeSnapshot
	err := o.Get(ctx, client.ObjectKey{Namespace: v.claim.Namespace, Name: name}, &s)
	if err != nil || contentName(&s) == "" {
		return nil, wait, client.IgnoreNotFound(err)
	}
	var c snapshotv1.VolumeSnapshotContent
	err = o.Get(ctx, client.ObjectKey{Name: contentName(&s)}, &c)
	// The content must refer back to this snapshot, because a snapshot may name any content.
	if err != nil || sourceHandle(&c) == "" || c.Spec.VolumeSnapshotRef.UID != s.UID {
		return nil, wait, client.IgnoreNotFound(err)
	}
	v.snapshotNode = c.Labels[managedBy]
	return o.originOfCopy(ctx, v, sourceHandle(&c), unknown)
}
