package operator

// What the operator may do. `make generate` turns this into config/rbac and the chart's roles. Secrets are those of its own namespace alone
// (the chart puts in which that is); tenants' Secrets only where they bind the ClusterRole of the chart that allows it. What it may patch of claims and PersistentVolumes
// is narrowed by admission policies of the chart (policies-operator.yaml): where a claim is placed, and one finalizer.
//
// +kubebuilder:rbac:groups="",resources=persistentvolumeclaims;persistentvolumes,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=persistentvolumes,verbs=patch
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get
// +kubebuilder:rbac:groups=storage.k8s.io,resources=storageclasses;volumeattachments,verbs=get;list;watch
// +kubebuilder:rbac:groups=snapshot.storage.k8s.io,resources=volumesnapshots;volumesnapshotcontents,verbs=get;list;watch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=sealvol.dev,resources=volumekeys;sealedvolumes,verbs=get;list;watch;create;update;patch;delete
// +kubebuilder:rbac:groups=sealvol.dev,resources=volumekeys/status;sealedvolumes/status,verbs=get;update;patch
// +kubebuilder:rbac:groups="",namespace=sealvol-system,resources=secrets,verbs=get;list;watch;create;update;patch;delete
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=sealvol-system,resources=leases,verbs=get;create;update
// +kubebuilder:rbac:groups="",namespace=sealvol-system,resources=events,verbs=create;patch
