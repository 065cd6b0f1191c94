package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// SealedVolume describes one PersistentVolume of Sealvol, and has the same name. It has the key
// that opens the volume, the node that uses it, its usage and health, and its anchor. With the
// anchor, nodes detect and refuse a device that was rolled back.
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

	// Spec identifies the volume, its claim and its key. The operator writes it.
	//
	// +optional
	Spec SealedVolumeSpec `json:"spec,omitempty"`
	// Status is the state of the volume. The operator and the node that uses the volume write it.
	//
	// +optional
	Status SealedVolumeStatus `json:"status,omitempty"`
}

// SealedVolumeSpec identifies a volume, its claim and its key. The operator writes it.
//
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.volumeHandle) || size(oldSelf.volumeHandle) == 0 || has(self.volumeHandle) && self.volumeHandle == oldSelf.volumeHandle",message="volumeHandle cannot be changed once it is set"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.key) || has(self.key)",message="key cannot be removed"
type SealedVolumeSpec struct {
	// VolumeHandle is the CSI volume ID. It is empty until the PersistentVolume exists.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	VolumeHandle string `json:"volumeHandle,omitempty"`
	// KeyVolume is set if the volume is a copy. It is the handle of the volume whose key opens the
	// copy: the first volume of a chain of copies, which may have been deleted.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	KeyVolume string `json:"keyVolume,omitempty"`
	// NodeName is the one node that may use the volume now. Only this node may write the status.
	// With EBS, it is empty while the volume is not attached.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	NodeName string `json:"nodeName,omitempty"`
	// ReclaimPolicy is the reclaim policy of the PersistentVolume. With Retain, the key is kept
	// when the PersistentVolume is deleted.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=16
	ReclaimPolicy string `json:"reclaimPolicy,omitempty"`
	// ClaimRef names the PersistentVolumeClaim that has the volume, or that had it last.
	//
	// +optional
	ClaimRef *VolumeClaim `json:"claimRef,omitempty"`
	// Key names the key that opens the volume. It is empty until the key is chosen, and if the
	// volume uses a Secret that Sealvol does not manage.
	//
	// +optional
	Key *VolumeKeyRef `json:"key,omitempty"`
}

// VolumeClaim names a PersistentVolumeClaim.
type VolumeClaim struct {
	// Namespace is the namespace of the claim.
	//
	// +required
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// Name is the name of the claim.
	//
	// +required
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// UID is the UID of the claim. It distinguishes the claim from a later one of the same name.
	//
	// +required
	// +kubebuilder:validation:MaxLength=64
	UID string `json:"uid"`
}

// VolumeKeyRef names a version of a VolumeKey. It suffices to find the key when the VolumeKey was
// deleted with its namespace.
//
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.secretName) || size(oldSelf.secretName) == 0 || self.uid == oldSelf.uid",message="the key of a volume cannot be replaced"
type VolumeKeyRef struct {
	// Namespace is the namespace of the VolumeKey.
	//
	// +required
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// Name is the name of the VolumeKey.
	//
	// +required
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// UID is the UID of the VolumeKey. A later VolumeKey of the same name has another key.
	//
	// +required
	// +kubebuilder:validation:MaxLength=64
	UID string `json:"uid"`
	// Version is the version of the key that the volume uses, from 1.
	//
	// +optional
	Version int32 `json:"version,omitempty"`
	// SecretName is the name of the Secret that holds this version, in the operator's namespace. It
	// is empty until the key exists.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	SecretName string `json:"secretName,omitempty"`
	// Fingerprint identifies this version of the key and reveals nothing else about it.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Fingerprint string `json:"fingerprint,omitempty"`
}

// Phase is the phase of a volume's life.
type Phase string

// These are the phases of a volume.
const (
	// PhasePending: the PersistentVolume does not exist yet.
	PhasePending Phase = "Pending"
	// PhaseAvailable: no node uses the volume.
	PhaseAvailable Phase = "Available"
	// PhaseStaged: a node uses the volume.
	PhaseStaged Phase = "Staged"
	// PhaseReleased: the claim is gone, but the PersistentVolume still exists.
	PhaseReleased Phase = "Released"
	// PhaseDeleted: the PersistentVolume is gone. Snapshots or copies still need the key.
	PhaseDeleted Phase = "Deleted"
	// PhaseRetained: the PersistentVolume is gone, but the volume still exists (reclaim policy
	// Retain).
	PhaseRetained Phase = "Retained"
)

// Health summarizes the health of a volume.
type Health string

// These are the values of Health. The condition Healthy has the details.
const (
	// HealthHealthy: no problem is known.
	HealthHealthy Health = "Healthy"
	// HealthDegraded: the volume works with restrictions. For example, it is read-only after an
	// error, or nearly full.
	HealthDegraded Health = "Degraded"
	// HealthInaccessible: nothing can be read.
	HealthInaccessible Health = "Inaccessible"
	// HealthDataLoss: some data is lost.
	HealthDataLoss Health = "DataLoss"
	// HealthUnknown: the health cannot be determined, or nobody watches the volume.
	HealthUnknown Health = "Unknown"
)

// SealedVolumeStatus is the state of a volume. The operator writes the phase, the key version and
// the condition KeyReady. The node agent of the node that uses the volume writes everything else.
type SealedVolumeStatus struct {
	// Phase is Pending, Available, Staged, Released, Deleted or Retained. The operator sets it.
	//
	// +optional
	Phase Phase `json:"phase,omitempty"`
	// Node is the node on which the volume is staged. It is empty if the volume is not staged.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node,omitempty"`
	// Health is the health that the node last reported: Healthy, Degraded, Inaccessible, DataLoss
	// or Unknown. It is Unknown while nobody watches the volume, and empty while the volume is not
	// in use.
	//
	// +optional
	Health Health `json:"health,omitempty"`
	// Usage is the space that the volume has and uses, as the node last reported it.
	//
	// +optional
	Usage *VolumeUsage `json:"usage,omitempty"`
	// KeyVersion is the version of the key that was delivered. The operator sets it.
	//
	// +optional
	KeyVersion int32 `json:"keyVersion,omitempty"`
	// Anchor identifies the newest committed state of the volume that a node has published. A node
	// refuses a device that holds an older state or a state of another history. Only users with the
	// verb override-anchor on sealedvolumes can lower or remove it.
	//
	// +optional
	Anchor *Anchor `json:"anchor,omitempty"`
	// Format records whether the device was formatted. Once it is Formatted, a node refuses a
	// device that is blank or holds anything else, instead of formatting it. Only users with the
	// verb override-anchor on sealedvolumes can change or remove it then.
	//
	// +optional
	Format *VolumeFormat `json:"format,omitempty"`
	// ReportedAt is the time of the node's last report. The node reports when it stages or unstages
	// the volume, when the health changes, when the used space changes by one percent of the
	// volume, and every 30 seconds while anything else changes.
	//
	// +optional
	ReportedAt *metav1.Time `json:"reportedAt,omitempty"`
	// Conditions are KeyReady, which the operator writes, and Healthy, which the node writes.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// VolumeUsage is the space that a volume has and uses, as df shows it.
type VolumeUsage struct {
	// TotalBytes is the size of the file system in bytes.
	TotalBytes int64 `json:"totalBytes"`
	// UsedBytes is the number of bytes that files, metadata and local snapshots occupy.
	UsedBytes int64 `json:"usedBytes"`
	// AvailableBytes is the number of bytes that can still be written.
	AvailableBytes int64 `json:"availableBytes"`
	// UsedInodes is the number of files and directories.
	//
	// +optional
	UsedInodes int64 `json:"usedInodes,omitempty"`
	// Summary is the usage in a readable form, for example "1.5GiB/10GiB (15%)".
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Summary string `json:"summary,omitempty"`
}

// FormatState tells whether a device was formatted.
//
// +kubebuilder:validation:Enum=Formatting;Formatted
type FormatState string

// These are the format states.
const (
	// FormatFormatting: formatting a blank device has begun. The volume was never used.
	FormatFormatting FormatState = "Formatting"
	// FormatFormatted: the device was formatted and holds the volume.
	FormatFormatted FormatState = "Formatted"
)

// VolumeFormat records whether the device of a volume was formatted. The node writes it.
type VolumeFormat struct {
	// State is Formatting before the node formats the device, and Formatted before the first pod
	// gets the volume.
	//
	// +required
	State FormatState `json:"state"`
	// Time is the time at which the node set the state.
	//
	// +optional
	Time metav1.Time `json:"time,omitempty"`
}

// Anchor identifies one committed state of a volume. It holds no secrets.
type Anchor struct {
	// Volume is the UUID in the volume's header. Copies of the device share it.
	//
	// +required
	// +kubebuilder:validation:Pattern=`^[0-9a-f-]{36}$`
	Volume string `json:"volume"`
	// Instance is the UUID of the volume on this device. Each copy has its own.
	//
	// +required
	// +kubebuilder:validation:Pattern=`^[0-9a-f-]{36}$`
	Instance string `json:"instance"`
	// Generation is the number of the committed state. Each commit increments it.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	Generation int64 `json:"generation"`
	// Epoch is the epoch of the data key. Each rotation of the data key increments it.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	Epoch int64 `json:"epoch"`
	// MAC is an HMAC-SHA-256 of the anchor under a key of the volume.
	//
	// +required
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	MAC string `json:"mac"`
	// Time is the time at which the node published the anchor.
	//
	// +optional
	Time metav1.Time `json:"time,omitempty"`
}

// These are the conditions of a SealedVolume.
const (
	// VolumeKeyReady tells that the volume's key exists, and that the delivery Secret holds it or
	// will hold it once the PersistentVolume exists.
	VolumeKeyReady = "KeyReady"
	// VolumeHealthy tells that no problem of the volume is known. It is Unknown while nobody
	// watches it.
	VolumeHealthy = "Healthy"
)

// These are the reasons of VolumeHealthy while nobody watches the volume.
const (
	// ReasonNotWatched tells that the node plugin of the volume's node has stopped.
	ReasonNotWatched = "NotWatched"
	// ReasonUninstalled tells that Sealvol was uninstalled while the volume was in use.
	ReasonUninstalled = "Uninstalled"
)

// SealedVolumeList is a list of SealedVolumes.
//
// +kubebuilder:object:root=true
type SealedVolumeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SealedVolume `json:"items"`
}
