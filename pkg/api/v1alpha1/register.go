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
	// KeyFinalizer on VolumeKeys and key Secrets holds them while a volume needs them.
	KeyFinalizer = "sealvol.dev/key-in-use"
	// VolumeFinalizer on SealedVolumes holds them until their Secrets are settled.
	VolumeFinalizer = "sealvol.dev/volume"
	// OverrideVerb on sealedvolumes lets its bearer lower or remove an anchor.
	OverrideVerb = "override-anchor"
)

// Keys of a key Secret and of a delivery Secret.
const (
	SecretKEK      = "kek"
	SecretPrevious = "kek-previous"
)
