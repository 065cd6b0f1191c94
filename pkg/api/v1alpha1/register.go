package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the API group and version of this package.
var GroupVersion = schema.GroupVersion{Group: "sealvol.dev", Version: "v1alpha1"}

// AddToScheme adds the types of this package to a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &VolumeKey{}, &VolumeKeyList{}, &SealedVolume{}, &SealedVolumeList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// These are names of annotations, labels, finalizers and verbs.
const (
	// KeyAnnotation on a PersistentVolumeClaim names the VolumeKey, in the same namespace, whose
	// key opens the volume. Without it, the operator creates a VolumeKey for this volume only. It
	// has an effect only until the volume has a key.
	KeyAnnotation = "sealvol.dev/volume-key"
	// PolicyAnnotation on a key Secret is the deletion policy of the VolumeKey. It is used when the
	// VolumeKey was deleted with its namespace.
	PolicyAnnotation = "sealvol.dev/deletion-policy"
	// OwnerAnnotation on a key Secret names the VolumeKey as namespace/name.
	OwnerAnnotation = "sealvol.dev/volume-key"
	// ReleasedAnnotation on a key Secret has the Secret's own UID as its value. The operator sets
	// it once the VolumeKey and its volumes have been deleted in the normal way. If they are merely
	// missing, as in a backup that is half restored, the Secret stays.
	ReleasedAnnotation = "sealvol.dev/released"
	// SourceAnnotation on a VolumeSnapshotContent that was created by hand is the handle of the
	// volume that the snapshot was taken of. The node that has the snapshot sets it; with EBS, the
	// controller.
	SourceAnnotation = "sealvol.dev/source-volume"
	// GrantAnnotation on a SealedVolume lists other namespaces, separated by commas, that may have
	// the volume's key, for the volume or for copies of it. Only users who may write SealedVolumes,
	// usually administrators, can set it.
	GrantAnnotation = "sealvol.dev/share-key-with"
	// AllowAnnotation on a protected Secret, with the Secret's own name as its value, allows users
	// to delete or edit it.
	AllowAnnotation = "sealvol.dev/allow-changes"
	// RoleLabel on a Secret is the kind of the Secret: RoleKey or RoleDelivery.
	RoleLabel = "sealvol.dev/role"
	// RoleKey marks a key Secret, which holds one version of a VolumeKey and is immutable.
	RoleKey = "key"
	// RoleDelivery marks a delivery Secret, which the kubelet passes to the node plugin. It is the
	// node stage and node publish Secret of one volume.
	RoleDelivery = "delivery"
	// KeyUIDLabel on a key Secret is the UID of its VolumeKey.
	KeyUIDLabel = "sealvol.dev/key-uid"
	// KeptLabel on a key Secret is the namespace of its VolumeKey. The operator sets it when the
	// VolumeKey and all its volumes are gone, but the Secret stays.
	KeptLabel = "sealvol.dev/kept"
	// DeliveryFinalizer on a PersistentVolume keeps it, and thereby its name, until its delivery
	// Secret is gone.
	DeliveryFinalizer = "sealvol.dev/delivery"
	// KeyFinalizer on VolumeKeys and key Secrets keeps them while a volume needs them.
	KeyFinalizer = "sealvol.dev/key-in-use"
	// VolumeFinalizer on SealedVolumes keeps them until the operator has handled their Secrets.
	VolumeFinalizer = "sealvol.dev/volume"
	// OverrideVerb on sealedvolumes allows a user to lower or remove an anchor.
	OverrideVerb = "override-anchor"
	// ReleaseVerb on volumekeys, in the whole cluster, allows a user to remove the finalizer of a
	// VolumeKey. Its Secrets are then left behind.
	ReleaseVerb = "release-key"
)

// These are the entries of key Secrets and delivery Secrets.
const (
	// SecretKEK holds the key, as 64 hexadecimal digits.
	SecretKEK = "kek"
	// SecretPrevious holds the previous key while a volume changes from one key to another.
	SecretPrevious = "kek-previous"
)
