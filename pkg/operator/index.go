package operator

import (
	"context"
	"slices"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Field indexes. Those whose names are field paths are also fields by which the API server selects.
const (
	byVolume    = "volume"            // claims, by name of their present or future PersistentVolume
	byClass     = "class"             // claims without a volume, by StorageClass
	bySource    = "source"            // claims, by the claim or snapshot that they are a copy of
	byKeyVolume = "keyVolume"         // PersistentVolumes and SealedVolumes, by handle of the key's volume
	byHandle    = "spec.volumeHandle" // SealedVolumes and VolumeSnapshotContents, by volume handle
	byKey       = "key"               // SealedVolumes, by namespace/name of their VolumeKey
	byKeyUID    = "spec.key.uid"      // SealedVolumes, by the UID of their VolumeKey
	byWaiting   = "waiting"           // SealedVolumes that wait for a key: "true"
	byClaim     = "claim"             // SealedVolumes, by namespace/name of their claim
	byGone      = "gone"              // SealedVolumes in phase Deleted, by UID of their VolumeKey
	byOwner     = "owner"             // key Secrets, by UID of the VolumeKey
	byUID       = "uid"               // VolumeKeys, by UID
	byAttached  = "attached"          // our VolumeAttachments, by PersistentVolume
	byTenant    = "tenant"            // key Secrets, by the namespace of their VolumeKey
	byRefused   = "refused"           // VolumeKeys whose namespace has reached its limit: "true"
)

// fieldIndex is an index of one kind of object.
type fieldIndex struct {
	obj  client.Object
	name string
	f    client.IndexerFunc
}

func (o *operator) index(ctx context.Context, x client.FieldIndexer) error {
	list := slices.Concat(kubernetesIndexes(), sealedVolumeIndexes(), keyIndexes())
	if o.Attachments {
		list = append(list, fieldIndex{&storagev1.VolumeAttachment{}, byAttached, indexOf(attachedVolume)})
	}
	if o.Snapshots {
		list = append(list, fieldIndex{&snapshotv1.VolumeSnapshotContent{}, byHandle, indexOf(snapshotOf)})
	}
	for _, i := range list {
		if err := x.IndexField(ctx, i.obj, i.name, i.f); err != nil {
			return err
		}
	}
	return nil
}

// kubernetesIndexes returns the indexes of claims and PersistentVolumes.
func kubernetesIndexes() []fieldIndex {
	return []fieldIndex{
		{&corev1.PersistentVolumeClaim{}, byVolume, indexOf(func(c *corev1.PersistentVolumeClaim) string { return volumeName(c) })},
		{&corev1.PersistentVolumeClaim{}, byClass, indexOf(func(c *corev1.PersistentVolumeClaim) string {
			if c.Spec.VolumeName != "" || c.Spec.StorageClassName == nil {
				return ""
			}
			return *c.Spec.StorageClassName
		})},
		{&corev1.PersistentVolumeClaim{}, bySource, indexOf(sourceKey)},
		{&corev1.PersistentVolume{}, byKeyVolume, indexOf(func(v *corev1.PersistentVolume) string {
			if !isOurs(v) {
				return ""
			}
			return v.Spec.CSI.VolumeAttributes[attributeKeyVolume]
		})},
	}
}

// sealedVolumeIndexes returns the indexes of SealedVolumes.
func sealedVolumeIndexes() []fieldIndex {
	return []fieldIndex{
		{&v1alpha1.SealedVolume{}, byKeyVolume, indexOf(func(v *v1alpha1.SealedVolume) string { return v.Spec.KeyVolume })},
		{&v1alpha1.SealedVolume{}, byHandle, indexOf(func(v *v1alpha1.SealedVolume) string { return v.Spec.VolumeHandle })},
		{&v1alpha1.SealedVolume{}, byKey, indexOf(func(v *v1alpha1.SealedVolume) string {
			if v.Spec.Key == nil {
				return ""
			}
			return v.Spec.Key.Namespace + "/" + v.Spec.Key.Name
		})},
		{&v1alpha1.SealedVolume{}, byKeyUID, indexOf(func(v *v1alpha1.SealedVolume) string {
			if v.Spec.Key == nil {
				return ""
			}
			return v.Spec.Key.UID
		})},
		{&v1alpha1.SealedVolume{}, byWaiting, indexOf(func(v *v1alpha1.SealedVolume) string {
			c := meta.FindStatusCondition(v.Status.Conditions, v1alpha1.VolumeKeyReady)
			if hasKey(v) || c != nil && (c.Reason == v1alpha1.ReasonExternal || c.Reason == v1alpha1.ReasonNoKey) {
				return ""
			}
			return "true"
		})},
		{&v1alpha1.SealedVolume{}, byClaim, indexOf(func(v *v1alpha1.SealedVolume) string {
			if v.Spec.ClaimRef == nil {
				return ""
			}
			return v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name
		})},
		{&v1alpha1.SealedVolume{}, byGone, indexOf(func(v *v1alpha1.SealedVolume) string {
			if v.Status.Phase != v1alpha1.PhaseDeleted || v.Spec.Key == nil {
				return ""
			}
			return v.Spec.Key.UID
		})},
	}
}

// keyIndexes returns the indexes of VolumeKeys and key Secrets.
func keyIndexes() []fieldIndex {
	secret := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}}
	return []fieldIndex{
		{&v1alpha1.VolumeKey{}, byUID, indexOf(func(k *v1alpha1.VolumeKey) string { return string(k.UID) })},
		{&v1alpha1.VolumeKey{}, byRefused, indexOf(func(k *v1alpha1.VolumeKey) string {
			if c := meta.FindStatusCondition(k.Status.Conditions, v1alpha1.KeyReady); c == nil || c.Reason != v1alpha1.ReasonTooMany {
				return ""
			}
			return "true"
		})},
		{secret, byTenant, indexOf(func(s *metav1.PartialObjectMetadata) string { return tenantOf(s) })},
		{secret, byOwner, indexOf(func(s *metav1.PartialObjectMetadata) string {
			if s.Labels[v1alpha1.RoleLabel] != v1alpha1.RoleKey {
				return ""
			}
			return s.Labels[v1alpha1.KeyUIDLabel]
		})},
	}
}

// indexOf returns an indexer for a function that returns one index key, or "" for none.
func indexOf[T client.Object](f func(T) string) client.IndexerFunc {
	return func(obj client.Object) []string {
		o, ok := obj.(T)
		if !ok {
			return nil
		}
		if k := f(o); k != "" {
			return []string{k}
		}
		return nil
	}
}
