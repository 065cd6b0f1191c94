// Package operator creates the keys of volumes, delivers them, and deletes them.
//
//	PersistentVolumeClaim     of a Sealvol class
//	└ SealedVolume            pvc-<uid>, cluster-scoped (volume.go)
//	  ├ VolumeKey             pvc-<uid>, in the claim's namespace (volumekey.go)
//	  │ └ key Secret          volumekey-<uid>-v1, immutable, in the operator's namespace
//	  └ delivery Secret       pvc-<uid>, in the operator's namespace (delivery.go)
//
// The delivery Secret has the name of the PersistentVolume and is created when that exists. The
// kubelet passes it to the node plugin. If the Secret is late, the kubelet retries. The key of a
// volume is chosen once, when its claim is created: a clone or a restored snapshot gets the key of
// its origin; any other volume gets the VolumeKey that the claim names, or a new one of its own.
//
// # Invariants
//
// They hold when the operator is killed at any time.
//
//	K1  A version of a key is created by one Create of a Secret, whose name follows from the UID of
//	    the VolumeKey. If two operators try, the second one reads what the first has created. A key
//	    Secret is never written again.
//	K2  A version that is recorded in the VolumeKey or in a SealedVolume is never created again. If
//	    its Secret is gone or does not match the fingerprint, a condition and an event report it
//	    until the Secret is restored.
//	K3  Only keysecret.go deletes key Secrets. It deletes one when neither its VolumeKey nor any
//	    SealedVolume that uses it exists, according to the API server and not only the cache.
//	K4  A SealedVolume is deleted when its PersistentVolume and its claim are gone, the reclaim
//	    policy was not Retain, and neither a snapshot of the volume nor a copy that still waits for
//	    its key exists, again according to the API server.
//	K5  The delivery Secret is a copy. If it is missing or was edited, the operator restores it, with
//	    an event.
//	K6  The delivery Secret exists only while the PersistentVolume of its name belongs to the
//	    SealedVolume, is for the SealedVolume's claim, has our finalizer, and that claim exists. The
//	    API server confirms this before the Secret is filled. The PersistentVolume is deleted after
//	    the Secret (delivery.go, binding.go).
//	K7  If a volume gets a PersistentVolume of another name, the newest anchor and the record that
//	    the device was formatted are copied to its new SealedVolume before the key is delivered
//	    (anchors.go).
//
// Objects have no owner references: the garbage collector would delete keys when objects are
// restored from a backup with new UIDs, or when a custom resource definition is deleted (docs/adr).
// After a crash, the next start reconciles all objects and completes whatever was left unfinished.
//
// # Keys in memory
//
// Only the metadata of Secrets is watched. The operator reads the contents of a Secret when it has
// changed, and holds them in locked memory while it compares or copies them. The buffers of the API
// client are not locked; the garbage collector frees them.
package operator
