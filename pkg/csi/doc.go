// Package csi implements the Container Storage Interface, spec 1.13: Identity, Controller and Node
// on a unix socket. It translates the CO's calls into calls of a backend (which has devices) and a
// mounter (which has mount servers). It knows neither the contents of volumes nor their engine.
//
// A call passes these layers, from the outside: log, recover from a panic, translate errors
// (errors.go, the only place that knows gRPC codes), one operation per volume (inflight.go), the
// service.
//
// # What is never logged
//
// sanitise logs requests. It uses the descriptors to drop every field that is marked csi_secret and
// every map (volume and publish contexts, parameters, secrets), so a new field of a later spec
// cannot leak. Errors name the keys of parameters but never their values, and nothing from a
// context. Responses are not logged.
//
// # State
//
// The package has no state. It reads everything from the backend, the mounter and
// /proc/self/mountinfo, so after a crash at any point, repeating the call continues the work. It
// recognises the mounts of a volume by their source, "sealvol:"+id.
//
// # Paths
//
// Target and staging paths must lie below the kubelet's directory. The package opens them component
// by component without following links (openat2, RESOLVE_BENEATH|NO_SYMLINKS), and attaches mounts
// to the descriptor, not to the path. It never looks up a path inside a mount and never uses a path
// that could wait for a mount server: an O_PATH descriptor of a mount's root sends no FUSE request.
package csi
