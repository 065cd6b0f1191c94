// Package csi is the Container Storage Interface, spec 1.13: Identity, Controller and Node on a unix
// socket. It translates between the CO's calls, a backend (which has devices) and a mounter (which has
// mount servers); it knows neither volumes' contents nor their engine.
//
// Layers of a call, from outside: log, recover from a panic, translate errors (errors.go, the only place that
// knows gRPC codes), one operation per volume (inflight.go), the service.
//
// # What is never logged
//
// Requests are logged by sanitise, which drops every field marked csi_secret and every map (volume
// and publish contexts, parameters, secrets) by descriptor, so that a field of a later spec is not
// leaked by forgetting it. Errors name keys of parameters, never their values, and nothing at all of a context.
// Responses are not logged.
//
// # State
//
// There is none. Everything is read from the backend, the mounter and /proc/self/mountinfo, so that a plugin that
// was killed at any line continues by repeating the call. Mounts of a volume are recognised by their source,
// "sealvol:"+id.
//
// # Paths
//
// Target and staging paths must lie below the kubelet's directory. They are opened component by component
// without following links (openat2, RESOLVE_BENEATH|NO_SYMLINKS), and mounts are moved onto the descriptor, not
// the path. Nothing here ever looks at a path inside a mount, nor uses one that could wait for a server:
// O_PATH descriptors of a mount's root ask FUSE nothing.
package csi
