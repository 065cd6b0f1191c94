// Package operator gives volumes their keys and takes them away again.
//
//	PersistentVolumeClaim ──► SealedVolume pvc-<uid> ──► VolumeKey pvc-<uid> ──► Secret volumekey-<uid>-v1   (immutable, operator's namespace)
//	of a Sealvol class        (volume.go)          │     (volumekey.go)               │
//	                                               └────────────────────────► Secret pvc-<uid>              (delivery, operator's namespace)
//
// The delivery Secret is named as the PersistentVolume, and made when that is there. The kubelet hands it to
// the node plugin; where it comes late, the kubelet's next try finds it. A SealedVolume's key is settled once, with the claim: that of the origin for a clone or
// a restored snapshot, the VolumeKey that the claim names, or one of its own.
//
// # What holds, whatever dies when
//
//	K1  A version of a key is made by one Create of a Secret whose name follows from its VolumeKey's UID. Whoever comes second reads what is
//	    there. No key Secret is ever written again.
//	K2  A version that was noted, in the VolumeKey or in a SealedVolume, is never made again. If its Secret is gone, or does not hold what the
//	    fingerprint says, a condition and an event say so until it is restored.
//	K3  A key Secret is deleted in one place (keysecret.go), when neither its VolumeKey nor any SealedVolume that uses it is left, as read from
//	    the API server itself, not from a cache.
//	K4  A SealedVolume goes when its PersistentVolume and claim have gone, the former not to be retained, and no snapshot of the volume, and no
//	    copy of it that has not got its key yet, is left: again as the API server says.
//	K5  The delivery Secret is a copy. It is made anew when it is missing, and mended when it was edited, with an event.
//
//	K6  The delivery Secret holds a key only while the PersistentVolume of its name is that of the SealedVolume, for the SealedVolume's claim, which
//	    exists, and is held by a finalizer: as the API server says when it is filled. The PersistentVolume goes after the Secret has (delivery.go,
//	    binding.go).
//	K7  A volume that has another name than before gets its newest anchor, and that it was made, before its key (heritage.go).
//
// Nothing has an owner reference: the garbage collector would take keys away when objects come back from a backup with new UIDs, or when a custom
// resource definition is deleted (docs/adr). What is left over by a crash is found by the same reconciliation at the next start: all of it
// follows from what the API server has.
//
// # Keys in memory
//
// Secrets are watched by their metadata alone. Their contents are read when they have changed, and held in locked memory while
// they are compared or copied; what the API client itself had of them is left to the garbage collector.
package operator
