// Package v1alpha1 is the API group sealvol.dev: the objects of Sealvol that users and
// administrators see with kubectl.
//
//	VolumeKey     namespaced      a key-encryption key, generated or imported; its Secrets are in
//	                              the operator's namespace
//	SealedVolume  cluster-scoped  one per PersistentVolume: its key, its node and its health
//
// The operator writes all specs that users do not write, and its own conditions. The node agent
// writes what it observes about the volumes on its node. No field of any object holds key material.
//
// +kubebuilder:object:generate=true
// +groupName=sealvol.dev
package v1alpha1
