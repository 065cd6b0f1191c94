package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion of this package.
var GroupVersion = schema.GroupVersion{Group: "sealvol.dev", Version: "v1alpha1"}

// AddToScheme adds the types of this package to a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &VolumeKey{}, &VolumeKeyList{}, &SealedVolume{}, &SealedVolumeList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// Names that are not fields: on Secrets, PersistentVolumeClaims and PersistentVolumes.
const (
	// KeyAnnotation on a PersistentVolumeClaim names the VolumeKey of its namespace that is to open the volume. Without it
	// the operator makes one for the volume alone. It counts until the volume has a key.
	KeyAnnotation = "sealvol.dev/volume-key"
	// PolicyAnnotation on a key Secret is the VolumeKey's deletion policy, for when that has gone with its namespace.
	PolicyAnnotation = "sealvol.dev/deletion-policy"
	// OwnerAnnotation on a key Secret names the VolumeKey as namespace/name.
	OwnerAnnotation = "sealvol.dev/volume-key"
	// ReleasedAnnotation on a key Secret is the Secret's own UID once its VolumeKey and its volumes were given up, as far as the operator has seen. Where
	// they are only missing, as in a backup that is half restored, the Secret stays.
	ReleasedAnnotation = "sealvol.dev/released"
	// SourceAnnotation on a VolumeSnapshotContent that was made by hand is the handle of the volume that the snapshot is of, as the node says that has it.
	SourceAnnotation = "sealvol.dev/source-volume"
	// GrantAnnotation on a SealedVolume names the namespaces, separated by commas, that may have the volume's key besides its own: for copies of
	// the volume, and for the volume itself. Who may write SealedVolumes, which administrators may, gives it.
	GrantAnnotation = "sealvol.dev/share-key-with"
	// AllowAnnotation on a protected Secret, with the Secret's own name as its value, lets it be deleted or edited by hand.
	AllowAnnotation = "sealvol.dev/allow-changes"
	// RoleLabel on a Secret says what it is: RoleKey or RoleDelivery.
	RoleLabel = "sealvol.dev/role"
	// RoleKey is a version of a VolumeKey: immutable.
	RoleKey = "key"
	// RoleDelivery is what kubelet hands to the node plugin: the node stage and node publish secret of one volume.
	RoleDelivery = "delivery"
	// KeyUIDLabel on a key Secret is its VolumeKey's UID.
	KeyUIDLabel = "sealvol.dev/key-uid"
	// KeptLabel on a key Secret of which neither VolumeKey nor volumes are left, and which stays, is the namespace of its VolumeKey.
	KeptLabel = "sealvol.dev/kept"
	// DeliveryFinalizer on a PersistentVolume holds it, and its name, until its delivery Secret is gone.
	DeliveryFinalizer = "sealvol.dev/delivery"
	// KeyFinalizer on VolumeKeys and key Secrets holds them while a volume needs them.
	KeyFinalizer = "sealvol.dev/key-in-use"
	// VolumeFinalizer on SealedVolumes holds them until their Secrets are settled.
	VolumeFinalizer = "sealvol.dev/volume"
	// OverrideVerb on sealedvolumes lets its bearer lower or remove an anchor.
	OverrideVerb = "override-anchor"
	// ReleaseVerb on volumekeys, in the whole cluster, lets its bearer remove a VolumeKey's finalizer, which leaves its Secrets behind.
	ReleaseVerb = "release-key"
)

// Keys of a key Secret and of a delivery Secret.
const (
	SecretKEK      = "kek"
	SecretPrevious = "kek-previous"
)
