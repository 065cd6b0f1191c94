package operator

import (
	"context"
	"fmt"
	"regexp"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// A kubelet may read each Secret that a PersistentVolume names, if a pod of its node uses the claim
// that the PersistentVolume names; of that claim the API server compares namespace and name, not the
// UID. So whoever can make a PersistentVolume of a name can have the delivery Secret of that name
// read, and what a PersistentVolume says of itself is compared with what is known before it is
// taken for the volume's, and before anything is delivered.

// keyName matches names of key Secrets.
var keyName = regexp.MustCompile(`^volumekey-.+-v[0-9]+$`)

// isReserved tells names that no PersistentVolume may have: its delivery Secret would be in the place of a key.
func isReserved(name string) bool { return keyName.MatchString(name) }

func reserved(name string) *problem {
	return &problem{v1alpha1.ReasonReserved, fmt.Sprintf("%s is the name of a Secret that holds a key: no PersistentVolume of Sealvol may have it. Give it another name", name), false}
}

// exchanged says of a PersistentVolume that it is not the one which its name stands for.
func (v *volume) exchanged() *problem {
	return &problem{v1alpha1.ReasonExchanged, fmt.Sprintf("PersistentVolume %s is of volume %s on node %q, the SealedVolume of volume %s on node %q: give it another name, or, if the volume was moved, correct spec.nodeName of the SealedVolume",
		v.name, v.pv.Spec.CSI.VolumeHandle, v.node, v.sealed.Spec.VolumeHandle, v.sealed.Spec.NodeName), false}
}

// elsewhere says of the PersistentVolume of a copy that it is not where its origin is.
func elsewhere(origin *v1alpha1.SealedVolume, node string) *problem {
	return &problem{v1alpha1.ReasonExchanged, fmt.Sprintf("the volume is a copy of %s on node %q, and its PersistentVolume says that it lies on node %q, where no such copy can be made: delete that PersistentVolume",
		origin.Name, origin.Spec.NodeName, node), false}
}

// judge compares a PersistentVolume with what is known of the volume whose name it bears. One that
// can not be that volume's is put aside (v.stranger): all else goes on as if it was not there. One
// that is, but for a claim of a namespace that may not have the key, is as if no claim had it.
func (o volumes) judge(ctx context.Context, v *volume) error {
	if v.pv == nil {
		return nil
	}
	strange, err := o.isStrange(ctx, v)
	if err != nil {
		return err
	}
	if strange != nil {
		v.refused, v.stranger, v.pv, v.node, v.claim = strange, v.pv, nil, "", nil
		return o.findClaim(ctx, v)
	}
	if sv := v.sealed; sv != nil && hasKey(sv) && v.claim != nil && !isOf(sv, v.claim) && !mayShare(sv, v.claim.Namespace) {
		v.refused, v.asks, v.claim = notGranted(sv, v.claim.Namespace), v.claim, nil
	}
	return nil
}

// isStrange tells why v.pv can not be the volume's; nil: it can.
func (o volumes) isStrange(ctx context.Context, v *volume) (*problem, error) {
	if v.sealed != nil && v.sealed.Spec.VolumeHandle != "" {
		s := v.sealed.Spec
		if v.pv.Spec.CSI.VolumeHandle != s.VolumeHandle || !v.moves && s.NodeName != "" && v.node != s.NodeName {
			return v.exchanged(), nil
		}
		return nil, nil
	}
	// The first that comes for a claim: it has to be for that claim, and where the claim's volume is to be.
	want, err := o.expected(ctx, v)
	if want == nil || err != nil {
		return nil, err
	}
	if !isFor(v.pv, *want) {
		return &problem{v1alpha1.ReasonExchanged, fmt.Sprintf("PersistentVolume %s is in the place of the one of claim %s/%s, and not for that claim: delete it", v.name, want.Namespace, want.Name), false}, nil
	}
	node := ""
	if v.sealed != nil {
		node = v.sealed.Spec.NodeName // where the origin of a copy is
	}
	if node == "" && v.claim != nil {
		node = v.claim.Annotations[selectedNode]
	}
	if !v.moves && node != "" && node != v.node {
		return &problem{v1alpha1.ReasonExchanged, fmt.Sprintf("PersistentVolume %s says that it lies on node %q; the claim's volume is made on node %q: delete that PersistentVolume, or, if it is right, correct the claim's annotation %s", v.name, v.node, node, selectedNode), false}, nil
	}
	return nil, nil
}

// expected is the claim that a PersistentVolume of a name is made for; nil: any may have it.
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

// isFor tells whether a PersistentVolume is for one claim, and no other of its name.
func isFor(pv *corev1.PersistentVolume, c v1alpha1.VolumeClaim) bool {
	r := pv.Spec.ClaimRef
	return r != nil && r.Namespace == c.Namespace && r.Name == c.Name && string(r.UID) == c.UID
}

// has tells whether a claim has, or may get, a PersistentVolume.
func has(c *corev1.PersistentVolumeClaim, volume string) bool {
	return c.Spec.VolumeName == "" || c.Spec.VolumeName == volume
}

// stands tells whether a PersistentVolume, also one that gets no key, stands for the volume that a
// SealedVolume is of, whose key stays as long. One that is of something else does not: who makes it
// could keep the key from being erased.
func (o volumes) stands(sv *v1alpha1.SealedVolume, pv *corev1.PersistentVolume) bool {
	switch s := sv.Spec; {
	case s.VolumeHandle != "":
		return pv.Spec.CSI.VolumeHandle == s.VolumeHandle && (o.Attachments || s.NodeName == "" || nodeOf(pv) == s.NodeName)
	case s.ClaimRef == nil:
		return true
	default:
		return isFor(pv, *s.ClaimRef) && (o.Attachments || s.NodeName == "" || nodeOf(pv) == s.NodeName)
	}
}

// mayGet tells whether the PersistentVolume of a copy can come by the key of what it says to be a
// copy of. One that can not does not keep it.
func (o volumes) mayGet(pv *corev1.PersistentVolume, of *v1alpha1.SealedVolume) bool {
	if !o.Attachments && of.Spec.NodeName != "" && nodeOf(pv) != of.Spec.NodeName {
		return false
	}
	r := pv.Spec.ClaimRef
	return r == nil || mayShare(of, r.Namespace)
}
