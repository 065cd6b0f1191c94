package operator

import (
	"context"
	"fmt"
	"regexp"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// A kubelet may read every Secret that a PersistentVolume names, if a pod on its node uses the
// claim that the PersistentVolume names. The API server compares the namespace and name of that
// claim, but not its UID. So anyone who can create a PersistentVolume can make the delivery Secret
// of the same name readable. Therefore the operator compares a PersistentVolume with what it knows
// of the volume before it accepts it, and before it delivers the key.

// keyName matches names of key Secrets.
var keyName = regexp.MustCompile(`^volumekey-.+-v[0-9]+$`)

// isReserved tells whether no PersistentVolume may have this name, because its delivery Secret
// would have the name of a key Secret.
func isReserved(name string) bool { return keyName.MatchString(name) }

func nameReserved(name string) *problem {
	return &problem{v1alpha1.ReasonReserved, fmt.Sprintf("the name %s is reserved for Secrets that hold keys, so this PersistentVolume gets no key. Create it again under another name", name), false}
}

// exchangedProblem reports that a PersistentVolume does not match the SealedVolume of its name.
func (v *volume) exchangedProblem() *problem {
	return &problem{v1alpha1.ReasonExchanged, fmt.Sprintf("PersistentVolume %s refers to volume %s on node %q, but its SealedVolume refers to volume %s on node %q, so it gets no key. Create it under another name. If you moved the volume, correct spec.nodeName of the SealedVolume",
		v.name, v.pv.Spec.CSI.VolumeHandle, v.node, v.sealed.Spec.VolumeHandle, v.sealed.Spec.NodeName), false}
}

// wrongNode reports that the PersistentVolume of a copy is not on the node of its origin.
func wrongNode(origin *v1alpha1.SealedVolume, node string) *problem {
	return &problem{v1alpha1.ReasonExchanged, fmt.Sprintf("the volume is a copy of %s on node %q, but its PersistentVolume is on node %q. A copy is always on the node of its origin, so it gets no key. Delete the PersistentVolume",
		origin.Name, origin.Spec.NodeName, node), false}
}

// checkIdentity compares the PersistentVolume with what is known of the volume of its name. If it
// cannot belong to that volume, it becomes v.mismatched, and reconciliation continues as if it did
// not exist. If it belongs to the volume, but its claim is in a namespace that may not have the
// key, reconciliation continues as if it had no claim.
func (o volumes) checkIdentity(ctx context.Context, v *volume) error {
	if v.pv == nil {
		return nil
	}
	strange, err := o.mismatch(ctx, v)
	if err != nil {
		return err
	}
	if strange != nil {
		v.refused, v.mismatched, v.pv, v.node, v.claim = strange, v.pv, nil, "", nil
		return o.findClaim(ctx, v)
	}
	if sv := v.sealed; sv != nil && hasKey(sv) && v.claim != nil && !isOf(sv, v.claim) && !mayShare(sv, v.claim.Namespace) {
		v.refused, v.refusedClaim, v.claim = notGranted(sv, v.claim.Namespace), v.claim, nil
	}
	return nil
}

// mismatch returns why v.pv cannot belong to the volume, or nil if it can.
func (o volumes) mismatch(ctx context.Context, v *volume) (*problem, error) {
	if v.sealed != nil && v.sealed.Spec.VolumeHandle != "" {
		s := v.sealed.Spec
		if v.pv.Spec.CSI.VolumeHandle != s.VolumeHandle || !v.moves && s.NodeName != "" && v.node != s.NodeName {
			return v.exchangedProblem(), nil
		}
		return nil, nil
	}
	// This is the first PersistentVolume for the claim. It must be for that claim, and on the node
	// on which the claim's volume is created.
	want, err := o.expected(ctx, v)
	if want == nil || err != nil {
		return nil, err
	}
	if !isFor(v.pv, *want) {
		return &problem{v1alpha1.ReasonExchanged, fmt.Sprintf("PersistentVolume %s has the name of the volume of claim %s/%s, but is not for that claim, so it gets no key. Delete it", v.name, want.Namespace, want.Name), false}, nil
	}
	node := ""
	if v.sealed != nil {
		node = v.sealed.Spec.NodeName // for a copy, the node of its origin
	}
	if node == "" && v.claim != nil {
		node = v.claim.Annotations[selectedNode]
	}
	if !v.moves && node != "" && node != v.node {
		return &problem{v1alpha1.ReasonExchanged, fmt.Sprintf("PersistentVolume %s is on node %q, but the claim's volume belongs on node %q, so it gets no key. Delete the PersistentVolume. If its node is right, correct the claim's annotation %s", v.name, v.node, node, selectedNode), false}, nil
	}
	return nil, nil
}

// expected returns the claim that the PersistentVolume of this name is created for, or nil if any
// claim may have it.
func (o volumes) expected(ctx context.Context, v *volume) (*v1alpha1.VolumeClaim, error) {
	if v.sealed != nil {
		return v.sealed.Spec.ClaimRef, nil
	}
	var list corev1.PersistentVolumeClaimList
	if err := o.List(ctx, &list, client.MatchingFields{byVolume: v.name}); err != nil {
		return nil, err
	}
	for i := range list.Items {
		if c := &list.Items[i]; c.Spec.VolumeName == "" {
			return &v1alpha1.VolumeClaim{Namespace: c.Namespace, Name: c.Name, UID: string(c.UID)}, nil
		}
	}
	return nil, nil
}

// isFor tells whether a PersistentVolume is for a claim, by namespace, name and UID.
func isFor(pv *corev1.PersistentVolume, c v1alpha1.VolumeClaim) bool {
	r := pv.Spec.ClaimRef
	return r != nil && r.Namespace == c.Namespace && r.Name == c.Name && string(r.UID) == c.UID
}

// mayBind tells whether a claim has a PersistentVolume, or may still be bound to it.
func mayBind(c *corev1.PersistentVolumeClaim, volume string) bool {
	return c.Spec.VolumeName == "" || c.Spec.VolumeName == volume
}

// represents tells whether a PersistentVolume refers to the volume of a SealedVolume. While it
// does, the key is kept, even if the PersistentVolume may not have it. A PersistentVolume of
// another volume does not count; otherwise, its creator could prevent the erasure of the key.
func (o volumes) represents(sv *v1alpha1.SealedVolume, pv *corev1.PersistentVolume) bool {
	switch s := sv.Spec; {
	case s.VolumeHandle != "":
		return pv.Spec.CSI.VolumeHandle == s.VolumeHandle && (o.Attachments || s.NodeName == "" || nodeOf(pv) == s.NodeName)
	case s.ClaimRef == nil:
		return true
	default:
		return isFor(pv, *s.ClaimRef) && (o.Attachments || s.NodeName == "" || nodeOf(pv) == s.NodeName)
	}
}

// mayGetKey tells whether the PersistentVolume of a copy may get the key of its origin. If it may
// not, the key is not kept for it.
func (o volumes) mayGetKey(pv *corev1.PersistentVolume, of *v1alpha1.SealedVolume) bool {
	if !o.Attachments && of.Spec.NodeName != "" && nodeOf(pv) != of.Spec.NodeName {
		return false
	}
	r := pv.Spec.ClaimRef
	return r == nil || mayShare(of, r.Namespace)
}
