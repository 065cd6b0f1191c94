// Package operator reconciles keys: a PersistentVolumeClaim of a Sealvol class gets its VolumeKey, Secret and delivery Secret before
// the volume needs them.
package operator
