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
// it. Who makes a PersistentVolume may write anything into it: an origin counts only on the same
// node, where that can not change, and for the same namespace, unless an administrator has granted
// the key to another one.

// origin finds the SealedVolume of a volume's origin; nil if it has none.
func (o volumes) origin(ctx context.Context, v *volume) (*v1alpha1.SealedVolume, *problem, error) {
	if v.pv != nil {
		if h := v.pv.Spec.CSI.VolumeAttributes[attributeKeyVolume]; h != "" {
			return o.originOfCopy(ctx, v, h, fmt.Sprintf("the volume is a copy whose key is that of volume %s, of which no SealedVolume is left", h))
		}
		if sv, p, err := o.originAmong(ctx, v, byHandle, v.pv.Spec.CSI.VolumeHandle); sv != nil || p != nil || err != nil {
			return sv, p, err
		}
	}
	if v.claim == nil || v.claim.Spec.VolumeName != "" {
		return nil, nil, nil // a PersistentVolume that is there would have said
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

// isElsewhere tells that a volume lies on another node than the one that it is said to be a copy of, or the same as, which can not be: nodes make
// PersistentVolumes (with a policy that keeps them to their own), and must not come by the keys of others in this way. Of volumes that move, nodes make none.
func (v *volume) isElsewhere(origin *v1alpha1.SealedVolume) bool {
	if v.moves {
		return false
	}
	node := v.from
	if v.pv != nil {
		node = v.node
	} else if node == "" {
		return false
	}
	return origin.Spec.NodeName != "" && node != origin.Spec.NodeName
}

// namespace is that of the tenant who has a volume, or is to have it; "": nobody yet.
func (v *volume) namespace() string {
	switch {
	case v.claim != nil:
		return v.claim.Namespace
	case v.pv != nil && v.pv.Spec.ClaimRef != nil:
		return v.pv.Spec.ClaimRef.Namespace
	}
	return ""
}

// mayShare tells whether a namespace may have the key of a volume: one that has it already, as the
// volume's or the key's own, or one that an administrator has granted it.
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

// notGranted says what to do. It does not say whose the key is: the claim's owner reads it, too.
func notGranted(sv *v1alpha1.SealedVolume, namespace string) *problem {
	return &problem{v1alpha1.ReasonNotGranted, fmt.Sprintf("the key of this volume is not one of namespace %[2]s, so that it is not given to a claim there. If that is meant, an administrator grants it: "+
		"kubectl annotate sealedvolume %[1]s %[3]s=%[2]s", sv.Name, namespace, v1alpha1.GrantAnnotation), false}
}

// originOfCopy finds the origin by the handle that a copy names: that volume, or what else is a copy of it.
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

// originAmong finds, among the volumes that an index finds, one whose key a volume may have. A
// problem tells that there are such, but not for its namespace: then it gets no other key either.
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
		case sv.Name == v.name || !hasKey(sv) || v.isElsewhere(sv):
		case mayShare(sv, v.namespace()):
			return sv, nil, nil
		case refused != nil: // the first that is refused is named
		case v.namespace() == "":
			refused = &problem{v1alpha1.ReasonNoKey, "no claim has the volume yet: it gets its key when one has", false}
		default:
			refused = notGranted(sv, v.namespace())
		}
	}
	return nil, refused, nil
}

// inOrder sorts what the cache lists in any order. A message that names one of several would be
// another one each time, and each would bring the next about.
func inOrder(list []v1alpha1.SealedVolume) {
	slices.SortFunc(list, func(a, b v1alpha1.SealedVolume) int { return strings.Compare(a.Name, b.Name) })
}

func (o volumes) originOfClaim(ctx context.Context, v *volume, name string) (*v1alpha1.SealedVolume, *problem, error) {
	var c corev1.PersistentVolumeClaim
	err := o.Get(ctx, client.ObjectKey{Namespace: v.claim.Namespace, Name: name}, &c)
	if err != nil {
		return nil, &problem{v1alpha1.ReasonSourceUnknown, fmt.Sprintf("the claim is a copy of claim %s, which does not exist", name), false}, client.IgnoreNotFound(err)
	}
	wait := &problem{v1alpha1.ReasonKeyNotReady, fmt.Sprintf("the claim is a copy of claim %s, which has no key yet", name), false}
	var sv v1alpha1.SealedVolume
	err = o.Get(ctx, client.ObjectKey{Name: volumeName(&c)}, &sv)
	if err != nil || !hasKey(&sv) || !isOf(&sv, &c) { // a claim may name a volume that it will never have
		return nil, wait, client.IgnoreNotFound(err)
	}
	if v.isElsewhere(&sv) {
		return nil, elsewhere(&sv, v.node), nil
	}
	return &sv, nil, nil
}

func (o volumes) originOfSnapshot(ctx context.Context, v *volume, name string) (*v1alpha1.SealedVolume, *problem, error) {
	unknown := fmt.Sprintf("the claim is restored from snapshot %s, of whose source volume no SealedVolume with a key is known", name)
	if !o.Snapshots {
		return nil, &problem{v1alpha1.ReasonSourceUnknown, unknown, false}, nil
	}
	wait := &problem{v1alpha1.ReasonKeyNotReady, fmt.Sprintf("the claim is restored from snapshot %s, which has not been made yet", name), false}
	var s snapshotv1.VolumeSnapshot
	err := o.Get(ctx, client.ObjectKey{Namespace: v.claim.Namespace, Name: name}, &s)
	if err != nil || contentName(&s) == "" {
		return nil, wait, client.IgnoreNotFound(err)
	}
	var c snapshotv1.VolumeSnapshotContent
	err = o.Get(ctx, client.ObjectKey{Name: contentName(&s)}, &c)
	// The content must say that it is this snapshot's: a snapshot may name any.
	if err != nil || sourceHandle(&c) == "" || c.Spec.VolumeSnapshotRef.UID != s.UID {
		return nil, wait, client.IgnoreNotFound(err)
	}
	v.from = c.Labels[managedBy]
	return o.originOfCopy(ctx, v, sourceHandle(&c), unknown)
}
