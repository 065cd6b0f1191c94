package operator

// The rights of the operator. `make generate` turns these markers into config/rbac and the chart's
// roles. The operator may read Secrets only in its own namespace, which the chart fills in, and in
// namespaces where tenants bind the chart's ClusterRole for key import. Admission policies of the
// chart (policies-operator.yaml) restrict what it may patch: two annotations of claims, and one
// finalizer of PersistentVolumes.
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
