package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// VolumeKey is a key-encryption key. It opens the volumes that use it.
//
// A generated key is created once, from the kernel's random number generator, and stored in an
// immutable Secret in the operator's namespace. It is never generated again: if the Secret is lost,
// the condition Ready reports that until the Secret is restored from a backup. A key that a volume,
// a snapshot or a clone needs cannot be deleted.
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

	// Spec is where the key comes from and what happens to it when it is deleted. If it is omitted,
	// the operator generates the key and deletes it with the VolumeKey.
	//
	// +optional
	// +kubebuilder:default={}
	Spec VolumeKeySpec `json:"spec,omitempty"`
	// Status is the state of the key and who uses it. The operator writes it.
	//
	// +optional
	Status VolumeKeyStatus `json:"status,omitempty"`
}

// VolumeKeySpec tells where a key comes from and what happens to it when it is deleted.
//
// +kubebuilder:validation:XValidation:rule="has(self.imported) == has(oldSelf.imported)",message="imported cannot be added or removed: create another VolumeKey"
// +kubebuilder:validation:XValidation:rule="has(self.claimRef) == has(oldSelf.claimRef)",message="claimRef cannot be added or removed"
type VolumeKeySpec struct {
	// Imported names a Secret of this namespace from which the operator imports the key, instead of
	// generating one. The operator reads the Secret once and uses its own copy afterwards. It needs
	// the right to read the Secret: list the namespace in the chart value keyImport.namespaces, or
	// bind the chart's ClusterRole for key import.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="imported cannot be changed: create another VolumeKey"
	Imported *ImportedKey `json:"imported,omitempty"`

	// DeletionPolicy tells what happens to the Secrets of the key when the VolumeKey is deleted and
	// nothing needs the key any more. Delete deletes them, Retain keeps them.
	//
	// +optional
	// +kubebuilder:default=Delete
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`

	// ClaimRef names the PersistentVolumeClaim for which the operator created the key. The operator
	// sets it. It deletes such a VolumeKey when the claim and everything that needs the key are
	// gone.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="claimRef cannot be changed"
	ClaimRef *KeyClaim `json:"claimRef,omitempty"`
}

// DeletionPolicy tells what happens to the Secrets of a deleted key.
//
// +kubebuilder:validation:Enum=Delete;Retain
type DeletionPolicy string

// These are the deletion policies.
const (
	// DeletionDelete deletes the Secrets.
	DeletionDelete DeletionPolicy = "Delete"
	// DeletionRetain keeps the Secrets.
	DeletionRetain DeletionPolicy = "Retain"
)

// ImportedKey names a Secret in the VolumeKey's namespace.
type ImportedKey struct {
	// SecretName is the name of the Secret.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	SecretName string `json:"secretName"`
	// Key is the entry of the Secret that holds the key, as 64 hexadecimal digits or 32 raw bytes.
	// The key must be uniformly random.
	//
	// +optional
	// +kubebuilder:default=kek
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}

// KeyClaim names a PersistentVolumeClaim in the VolumeKey's namespace.
type KeyClaim struct {
	// Name is the name of the claim.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// UID is the UID of the claim. It distinguishes the claim from a later one of the same name.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	UID string `json:"uid"`
}

// VolumeKeyStatus is the state of a key. The operator writes it.
type VolumeKeyStatus struct {
	// Version is the current version of the key, from 1. It is omitted until the key exists.
	//
	// +optional
	Version int32 `json:"version,omitempty"`
	// Versions lists all versions of the key that still open a volume, in ascending order.
	//
	// +optional
	// +listType=map
	// +listMapKey=version
	// +kubebuilder:validation:MaxItems=64
	Versions []KeyVersion `json:"versions,omitempty"`
	// Volumes is the number of SealedVolumes that use the key.
	//
	// +optional
	Volumes int32 `json:"volumes"`
	// UsedBy lists the names of up to 16 SealedVolumes that use the key.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	UsedBy []string `json:"usedBy,omitempty"`
	// Conditions are Ready and, while a deletion waits for volumes that need the key,
	// DeletionBlocked.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// ObservedGeneration is the metadata.generation that the status refers to.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

// KeyVersion is one version of a key.
type KeyVersion struct {
	// Version is the number of this version, from 1.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	Version int32 `json:"version"`
	// SecretName is the name of the immutable Secret that holds this version, in the operator's
	// namespace.
	//
	// +required
	// +kubebuilder:validation:MaxLength=253
	SecretName string `json:"secretName"`
	// Fingerprint identifies the key and reveals nothing else about it.
	//
	// +required
	// +kubebuilder:validation:MaxLength=64
	Fingerprint string `json:"fingerprint"`
	// Created is the time at which the version was generated or imported.
	//
	// +optional
	Created metav1.Time `json:"created,omitempty"`
}

// These are the conditions of a VolumeKey.
const (
	// KeyReady tells that volumes can use the current version.
	KeyReady = "Ready"
	// KeyDeletionBlocked tells that the VolumeKey is being deleted, but volumes still need the key.
	KeyDeletionBlocked = "DeletionBlocked"
)

// These are the reasons of conditions and events about keys; docs/operator.md explains them.
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

// VolumeKeyList is a list of VolumeKeys.
//
// +kubebuilder:object:root=true
type VolumeKeyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []VolumeKey `json:"items"`
}
