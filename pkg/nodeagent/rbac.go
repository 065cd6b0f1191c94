package nodeagent

// These are the rights of the node agent. A ValidatingAdmissionPolicy limits its writes to the
// volumes of its own node.
//
// +kubebuilder:rbac:groups=sealvol.dev,resources=sealedvolumes,verbs=get;list;watch
// +kubebuilder:rbac:groups=sealvol.dev,resources=sealedvolumes/status,verbs=get;patch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
