package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// SealedVolume is what Sealvol knows of one PersistentVolume, whose name it bears: the key that opens it, where it is in use, how full and how well it is,
// and its anchor, by which a device that was rolled back is refused.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=sv;svol,categories=sealvol
// +kubebuilder:selectablefield:JSONPath=`.spec.nodeName`
// +kubebuilder:selectablefield:JSONPath=`.spec.volumeHandle`
// +kubebuilder:selectablefield:JSONPath=`.spec.key.uid`
// +kubebuilder:printcolumn:name="Namespace",type=string,JSONPath=`.spec.claimRef.namespace`
// +kubebuilder:printcolumn:name="Claim",type=string,JSONPath=`.spec.claimRef.name`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Health",type=string,JSONPath=`.status.health`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Healthy")].reason`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.status.node`
// +kubebuilder:printcolumn:name="Used",type=string,JSONPath=`.status.usage.summary`
// +kubebuilder:printcolumn:name="Key",type=string,JSONPath=`.status.conditions[?(@.type=="KeyReady")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Generation",type=integer,priority=1,JSONPath=`.status.anchor.generation`
// +kubebuilder:printcolumn:name="Anchored",type=date,priority=1,JSONPath=`.status.anchor.time`
// +kubebuilder:printcolumn:name="KeyVersion",type=integer,priority=1,JSONPath=`.status.keyVersion`
// +kubebuilder:printcolumn:name="VolumeKey",type=string,priority=1,JSONPath=`.spec.key.name`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Healthy")].message`
type SealedVolume struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec SealedVolumeSpec `json:"spec,omitempty"`
	// +optional
	Status SealedVolumeStatus `json:"status,omitempty"`
}

// SealedVolumeSpec is what a volume is. The operator writes it.
//
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.volumeHandle) || size(oldSelf.volumeHandle) == 0 || has(self.volumeHandle) && self.volumeHandle == oldSelf.volumeHandle",message="volumeHandle can not be changed once it is set"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.key) || has(self.key)",message="key can not be removed"
type SealedVolumeSpec struct {
	// VolumeHandle is the CSI volume id. It is empty until the PersistentVolume exists.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	VolumeHandle string `json:"volumeHandle,omitempty"`
	// KeyVolume is the handle of the volume whose key opens this one, a copy: the beginning of the chain of copies, which may have gone.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	KeyVolume string `json:"keyVolume,omitempty"`
	// NodeName is the one node that may use the volume now: only its agent may write the status.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	NodeName string `json:"nodeName,omitempty"`
	// ReclaimPolicy is the PersistentVolume's. With Retain the key outlives it.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=16
	ReclaimPolicy string `json:"reclaimPolicy,omitempty"`
	// ClaimRef is the PersistentVolumeClaim that has the volume, or had it last.
	//
	// +optional
	ClaimRef *VolumeClaim `json:"claimRef,omitempty"`
	// Key opens the volume. It is empty until that is known, and if a Secret that Sealvol does not manage does.
	//
	// +optional
	Key *VolumeKeyRef `json:"key,omitempty"`
}

// VolumeClaim names a PersistentVolumeClaim.
type VolumeClaim struct {
	// Namespace of the claim.
	//
	// +required
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// Name of the claim.
	//
	// +required
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// UID of the claim: a later claim of the same name is another one.
	//
	// +required
	// +kubebuilder:validation:MaxLength=64
	UID string `json:"uid"`
}

// VolumeKeyRef names a version of a VolumeKey. It is enough to find the key when the VolumeKey has gone with its namespace.
//
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.secretName) || size(oldSelf.secretName) == 0 || self.uid == oldSelf.uid",message="the key of a volume can not be exchanged"
type VolumeKeyRef struct {
	// Namespace of the VolumeKey.
	//
	// +required
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// Name of the VolumeKey.
	//
	// +required
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// UID of the VolumeKey: a later one of the same name holds another key.
	//
	// +required
	// +kubebuilder:validation:MaxLength=64
	UID string `json:"uid"`
	// Version of the VolumeKey's key that is delivered, from 1.
	//
	// +optional
	Version int32 `json:"version,omitempty"`
	// SecretName is the Secret with that version, in the operator's namespace.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	SecretName string `json:"secretName,omitempty"`
	// Fingerprint of that version: it tells keys apart and says nothing about them.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Fingerprint string `json:"fingerprint,omitempty"`
}

// Phase is where in its life a volume is.
type Phase string

// The phases.
const (
	PhasePending   Phase = "Pending"   // there is no PersistentVolume yet
	PhaseAvailable Phase = "Available" // no node uses it
	PhaseStaged    Phase = "Staged"    // a node uses it
	PhaseReleased  Phase = "Released"  // its claim is gone, the PersistentVolume stays
	PhaseDeleted   Phase = "Deleted"   // the PersistentVolume is gone; snapshots or clones still need the key
	PhaseRetained  Phase = "Retained"  // the PersistentVolume is gone, but what it stood for is not: Retain
)

// Health of a volume, in one word.
type Health string

// The words. What is wrong is in the condition Healthy.
const (
	HealthHealthy      Health = "Healthy"
	HealthDegraded     Health = "Degraded"     // it works, but read-only after an error, nearly full, …
	HealthInaccessible Health = "Inaccessible" // nothing can be read
	HealthDataLoss     Health = "DataLoss"
	HealthUnknown      Health = "Unknown" // nobody who watches it can tell, or nobody watches it
)

// SealedVolumeStatus is how a volume is. Conditions of the operator: KeyReady. All else is the node agent's.
type SealedVolumeStatus struct {
	// +optional
	Phase Phase `json:"phase,omitempty"`
	// Node is where the volume is staged; empty if nowhere.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node,omitempty"`
	// Health as the node saw it last: Healthy, Degraded, Inaccessible or DataLoss; Unknown while nobody
	// watches the volume. It is empty where the volume is not in use.
	//
	// +optional
	Health Health `json:"health,omitempty"`
	// +optional
	Usage *VolumeUsage `json:"usage,omitempty"`
	// KeyVersion is the version of the key that was delivered.
	//
	// +optional
	KeyVersion int32 `json:"keyVersion,omitempty"`
	// Anchor names the newest state of the volume that was made known. A node refuses a device that is older, or has another history. It is neither
	// lowered nor removed, but by who may override it.
	//
	// +optional
	Anchor *Anchor `json:"anchor,omitempty"`
	// Format is how far it has come that the volume was made on its device. Once it was made, a
	// device that is blank, or holds anything else, is not formatted again. That is neither changed
	// nor removed, but by who may override the anchor.
	//
	// +optional
	Format *VolumeFormat `json:"format,omitempty"`
	// ReportedAt is when the node wrote last; it writes at stage and unstage, when the health changes,
	// when what is used changes by a percent of the volume, and every 30 seconds while something else
	// changes.
	//
	// +optional
	ReportedAt *metav1.Time `json:"reportedAt,omitempty"`
	// Conditions are KeyReady, of the operator, and Healthy, of the node.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// VolumeUsage is what df shows.
type VolumeUsage struct {
	// TotalBytes is the size of the file system.
	TotalBytes int64 `json:"totalBytes"`
	// UsedBytes are taken by files, metadata and local snapshots.
	UsedBytes int64 `json:"usedBytes"`
	// AvailableBytes can still be written.
	AvailableBytes int64 `json:"availableBytes"`
	// UsedInodes is the number of files and directories.
	//
	// +optional
	UsedInodes int64 `json:"usedInodes,omitempty"`
	// Summary is for people: "1.5GiB/10GiB (15%)".
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Summary string `json:"summary,omitempty"`
}

// FormatState is how far it has come that a volume was made.
//
// +kubebuilder:validation:Enum=Formatting;Formatted
type FormatState string

// The states.
const (
	FormatFormatting FormatState = "Formatting" // begun, on a device that was blank; the volume was never used
	FormatFormatted  FormatState = "Formatted"  // the device has held the volume
)

// VolumeFormat tells whether the volume was made on its device.
type VolumeFormat struct {
	// +required
	State FormatState `json:"state"`
	// Time is when the state was kept first.
	//
	// +optional
	Time metav1.Time `json:"time,omitempty"`
}

// Anchor names one committed state of a volume. Nothing in it is secret.
type Anchor struct {
	// Volume is the UUID in the volume's header, which copies of the device share.
	//
	// +required
	// +kubebuilder:validation:Pattern=`^[0-9a-f-]{36}$`
	Volume string `json:"volume"`
	// Instance is the UUID of this device's volume, another one for each copy.
	//
	// +required
	// +kubebuilder:validation:Pattern=`^[0-9a-f-]{36}$`
	Instance string `json:"instance"`
	// Generation counts the volume's committed states.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	Generation int64 `json:"generation"`
	// Epoch is that of the data key, which each rotation raises.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	Epoch int64 `json:"epoch"`
	// MAC is HMAC-SHA-256 by a key of the volume's.
	//
	// +required
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	MAC string `json:"mac"`
	// Time is when the node reported it.
	//
	// +optional
	Time metav1.Time `json:"time,omitempty"`
}

// Conditions of a SealedVolume.
const (
	// VolumeKeyReady: the volume's key is there, and the delivery Secret holds it, or will once the PersistentVolume is there.
	VolumeKeyReady = "KeyReady"
	// VolumeHealthy: nothing is wrong with the volume. It is Unknown while nobody can tell.
	VolumeHealthy = "Healthy"
)

// Reasons of VolumeHealthy while nobody can tell.
const (
	// ReasonNotWatched: the node plugin of the volume's node has stopped.
	ReasonNotWatched = "NotWatched"
	// ReasonUninstalled: Sealvol was uninstalled while the volume was in use.
	ReasonUninstalled = "Uninstalled"
)

// SealedVolumeList is a list.
//
// +kubebuilder:object:root=true
type SealedVolumeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SealedVolume `json:"items"`
}
