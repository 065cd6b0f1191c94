package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// VolumeKey is a key-encryption key, which opens the volumes that use it.
//
// A generated key is made once, from the kernel's random numbers, and kept as an immutable Secret in the operator's namespace. It is never made
// again: should the Secret be lost, the key says so until it is restored from a backup. A key that a volume, a snapshot or a clone needs
// can not be deleted.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=vk;vkey,categories=sealvol
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Version",type=integer,JSONPath=`.status.version`
// +kubebuilder:printcolumn:name="Volumes",type=integer,JSONPath=`.status.volumes`
// +kubebuilder:printcolumn:name="Claim",type=string,JSONPath=`.spec.claimRef.name`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Fingerprint",type=string,priority=1,JSONPath=`.status.versions[-1:].fingerprint`
// +kubebuilder:printcolumn:name="Policy",type=string,priority=1,JSONPath=`.spec.deletionPolicy`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type VolumeKey struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec has a default, so that its fields' defaults hold also where it is left out.
	//
	// +optional
	// +kubebuilder:default={}
	Spec VolumeKeySpec `json:"spec,omitempty"`
	// +optional
	Status VolumeKeyStatus `json:"status,omitempty"`
}

// VolumeKeySpec says where a key comes from and what becomes of it.
//
// +kubebuilder:validation:XValidation:rule="has(self.imported) == has(oldSelf.imported)",message="where a key comes from can not be changed: make another VolumeKey"
// +kubebuilder:validation:XValidation:rule="has(self.claimRef) == has(oldSelf.claimRef)",message="claimRef can not be added or removed"
type VolumeKeySpec struct {
	// Imported takes the key from a Secret of this namespace, instead of generating one. The operator reads it once. It may do so only
	// in namespaces that bind the ClusterRole that the chart makes for this.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="where a key comes from can not be changed: make another VolumeKey"
	Imported *ImportedKey `json:"imported,omitempty"`

	// DeletionPolicy says what becomes of the key's Secrets when it is deleted and nothing needs it any more: Delete destroys them, Retain leaves them.
	//
	// +optional
	// +kubebuilder:default=Delete
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`

	// ClaimRef names the PersistentVolumeClaim for which the operator made the key. Such a key is deleted when neither the claim nor anything that needs it is left.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="claimRef can not be changed"
	ClaimRef *KeyClaim `json:"claimRef,omitempty"`
}

// DeletionPolicy says what becomes of a key.
//
// +kubebuilder:validation:Enum=Delete;Retain
type DeletionPolicy string

// The policies.
const (
	DeletionDelete DeletionPolicy = "Delete"
	DeletionRetain DeletionPolicy = "Retain"
)

// ImportedKey names a Secret of the VolumeKey's namespace.
type ImportedKey struct {
	// SecretName is the Secret's name.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	SecretName string `json:"secretName"`
	// Key is the entry of the Secret that holds the key: 64 hexadecimal digits, or 32 raw bytes. It must be uniformly random.
	//
	// +optional
	// +kubebuilder:default=kek
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}

// KeyClaim names a PersistentVolumeClaim of the VolumeKey's namespace.
type KeyClaim struct {
	// Name of the claim.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// UID of the claim: a later claim of the same name is another one.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	UID string `json:"uid"`
}

// VolumeKeyStatus is what the operator knows of a key.
type VolumeKeyStatus struct {
	// Version is the current one.
	//
	// +optional
	Version int32 `json:"version,omitempty"`
	// Versions lists all that still open something, ascending.
	//
	// +optional
	// +listType=map
	// +listMapKey=version
	// +kubebuilder:validation:MaxItems=64
	Versions []KeyVersion `json:"versions,omitempty"`
	// Volumes is how many SealedVolumes use the key.
	//
	// +optional
	Volumes int32 `json:"volumes"`
	// UsedBy names some of these.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	UsedBy []string `json:"usedBy,omitempty"`
	// Conditions are Ready and, while a deletion waits, DeletionBlocked.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// ObservedGeneration is the generation of the spec that the status speaks of.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

// KeyVersion is one version of a key.
type KeyVersion struct {
	// Version counts the key's versions, from 1.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	Version int32 `json:"version"`
	// SecretName is the immutable Secret in the operator's namespace.
	//
	// +required
	// +kubebuilder:validation:MaxLength=253
	SecretName string `json:"secretName"`
	// Fingerprint tells this key from any other, and nothing else about it.
	//
	// +required
	// +kubebuilder:validation:MaxLength=64
	Fingerprint string `json:"fingerprint"`
	// Created is when the version was made or imported.
	//
	// +optional
	Created metav1.Time `json:"created,omitempty"`
}

// Conditions of a VolumeKey.
const (
	// KeyReady: the current version can be given to volumes.
	KeyReady = "Ready"
	// KeyDeletionBlocked: the key is being deleted, but is still needed.
	KeyDeletionBlocked = "DeletionBlocked"
)

// Reasons of conditions and events about keys.
const (
	ReasonAvailable       = "Available"
	ReasonGenerated       = "Generated"
	ReasonImported        = "Imported"
	ReasonSecretMissing   = "KeySecretMissing"
	ReasonSecretAltered   = "KeySecretAltered"
	ReasonSecretDeleting  = "KeySecretBeingDeleted"
	ReasonImportForbidden = "ImportForbidden"
	ReasonImportMissing   = "ImportSecretMissing"
	ReasonImportMalformed = "ImportMalformed"
	ReasonInUse           = "KeyInUse"
	ReasonKeyNotFound     = "VolumeKeyNotFound"
	ReasonKeyNotReady     = "VolumeKeyNotReady"
	ReasonKeyDeleting     = "VolumeKeyBeingDeleted"
	ReasonSourceUnknown   = "SourceUnknown"
	ReasonNoKey           = "NoKey"
	ReasonExternal        = "ExternalSecret"
	ReasonDelivered       = "Delivered"
	ReasonKept            = "Kept"
	ReasonExchanged       = "VolumeExchanged"
	ReasonRestored        = "DeliveryRestored"
	ReasonConflict        = "DeliveryConflict"
	ReasonNeeded          = "VolumeInUse"
	ReasonPrepared        = "Prepared"
	ReasonNotGranted      = "KeyNotGranted"
	ReasonReserved        = "NameReserved"
	ReasonDuplicate       = "VolumeDuplicate"
	ReasonTooMany         = "TooManyKeys"
)

// VolumeKeyList is a list.
//
// +kubebuilder:object:root=true
type VolumeKeyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []VolumeKey `json:"items"`
}
