// Package v1alpha1 is the API group sealvol.dev: what users and platform engineers see of Sealvol with kubectl.
//
//	VolumeKey     namespaced  a key-encryption key: made once, or imported; its Secrets lie in the operator's namespace
//	SealedVolume  cluster     one per PersistentVolume: which key opens it, where it is in use, how it is
//
// The operator writes all specs that no user writes, and the conditions of its own; the node agent writes what it sees of the volumes on its node.
// No field of any object holds key material.
//
// +kubebuilder:object:generate=true
// +groupName=sealvol.dev
package v1alpha1
