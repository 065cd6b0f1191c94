package operator

import (
	"context"
	"fmt"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// isGone asks the API server whether both the PersistentVolume and the claim are gone.
func (o volumes) isGone(ctx context.Context, v *volume) (bool, error) {
	if v.pv != nil || v.claim != nil {
		return false, nil
	}
	var pv corev1.PersistentVolume
	err := o.live.Get(ctx, client.ObjectKey{Name: v.name}, &pv)
	if client.IgnoreNotFound(err) != nil || err == nil && isOurs(&pv) && o.represents(v.sealed, &pv) {
		return false, client.IgnoreNotFound(err)
	}
	c := v.sealed.Spec.ClaimRef
	if c == nil {
		return true, nil
	}
	if v.sealed.Spec.VolumeHandle != "" {
		return true, nil // a bound claim that lost its PersistentVolume never gets it back
	}
	claim, err := o.liveClaim(ctx, c.Namespace, c.Name, c.UID)
	// The claim may have been bound to another volume than the one that was prepared for it.
	return claim == nil || volumeName(claim) != v.name, err
}

// isNeeded tells whether the key of a volume that is gone is still needed: by snapshots, or by
// copies that do not have the key yet. Claims for copies were created while the claim existed, so
// a cache that knows of the claim's deletion knows them, too. Snapshots and the PersistentVolumes
// of copies arrive by other watches, so the API server is asked.
func (o volumes) isNeeded(ctx context.Context, sv *v1alpha1.SealedVolume) (bool, error) {
	if c := sv.Spec.ClaimRef; c != nil {
		waiting, err := o.hasWaitingCopy(ctx, sv, &corev1.PersistentVolumeClaimList{}, bySource, "PersistentVolumeClaim/"+c.Namespace+"/"+c.Name)
		if waiting || err != nil {
			return true, err
		}
	}
	if sv.Spec.VolumeHandle == "" {
		return false, nil
	}
	// A copy of a copy names the first volume of the chain.
	for _, h := range []string{sv.Spec.VolumeHandle, sv.Spec.KeyVolume} {
		if h == "" {
			continue
		}
		waiting, err := o.hasWaitingCopy(ctx, sv, &corev1.PersistentVolumeList{}, byKeyVolume, h)
		if waiting || err != nil {
			return true, err
		}
	}
	if !o.Snapshots {
		return o.hasNewCopy(ctx, sv)
	}
	for _, h := range []string{sv.Spec.VolumeHandle, anyVolume} {
		var cached snapshotv1.VolumeSnapshotContentList
		if err := o.List(ctx, &cached, client.MatchingFields{byHandle: h}); err != nil || len(cached.Items) > 0 {
			return true, err
		}
	}
	if needed, err := o.hasSnapshot(ctx, sv.Spec.VolumeHandle); needed || err != nil {
		return true, err
	}
	return o.hasNewCopy(ctx, sv)
}

// hasWaitingCopy tells whether one of the claims or PersistentVolumes that an index finds has no
// key yet and may get the key of "of".
func (o volumes) hasWaitingCopy(ctx context.Context, of *v1alpha1.SealedVolume, list client.ObjectList, index, value string) (bool, error) {
	if err := o.List(ctx, list, client.MatchingFields{index: value}); err != nil {
		return true, err
	}
	var names []string
	switch l := list.(type) {
	case *corev1.PersistentVolumeClaimList:
		for i := range l.Items {
			if l.Items[i].DeletionTimestamp == nil {
				names = append(names, volumeName(&l.Items[i]))
			}
		}
	case *corev1.PersistentVolumeList:
		for i := range l.Items {
			if o.mayGetKey(&l.Items[i], of) {
				names = append(names, l.Items[i].Name)
			}
		}
	}
	for _, n := range names {
		if waits, err := o.waitsForKey(ctx, n); waits || err != nil {
			return true, err
		}
	}
	return false, nil
}

func (o volumes) waitsForKey(ctx context.Context, name string) (bool, error) {
	var sv v1alpha1.SealedVolume
	err := o.Get(ctx, client.ObjectKey{Name: name}, &sv)
	return err != nil || !hasKey(&sv), client.IgnoreNotFound(err)
}

// hasNewCopy asks the API server, page by page, for copies that wait for their key. The cache may
// not have them yet.
func (o volumes) hasNewCopy(ctx context.Context, of *v1alpha1.SealedVolume) (bool, error) {
	var page corev1.PersistentVolumeList
	for {
		if err := o.live.List(ctx, &page, client.Limit(500), client.Continue(page.Continue)); err != nil {
			return true, fmt.Errorf("list PersistentVolumes: %w", err)
		}
		for i := range page.Items {
			pv := &page.Items[i]
			if !isOurs(pv) || !o.mayGetKey(pv, of) {
				continue
			}
			if h := pv.Spec.CSI.VolumeAttributes[attributeKeyVolume]; h == "" || h != of.Spec.VolumeHandle && h != of.Spec.KeyVolume {
				continue
			}
			if waits, err := o.waitsForKey(ctx, pv.Name); waits || err != nil {
				return true, err
			}
		}
		if page.Continue == "" {
			return false, nil
		}
	}
}

// hasSnapshot asks the API server, page by page, whether a volume has snapshots.
func (o volumes) hasSnapshot(ctx context.Context, handle string) (bool, error) {
	var page snapshotv1.VolumeSnapshotContentList
	for {
		if err := o.live.List(ctx, &page, client.Limit(500), client.Continue(page.Continue)); err != nil {
			return true, fmt.Errorf("list VolumeSnapshotContents: %w", err)
		}
		for i := range page.Items {
			if h := snapshotOf(&page.Items[i]); h == handle || h == anyVolume {
				return true, nil
			}
		}
		if page.Continue == "" {
			return false, nil
		}
	}
}
