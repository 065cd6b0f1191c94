// Package mountserver is the process that serves one volume to the kernel: it opens the volume, and
// answers FUSE requests and callers on a control socket. Both programs that serve volumes are thin
// layers above it, so every mount has the same features:
//
//	sealvol mount   Open, then Server.MountAndServe: the process makes its own mount
//	driver mount    mounter.RunServer(ForMounter): a mounter makes the mount, the server serves it
//
// The package imports neither Kubernetes nor cloud SDKs, because a mount server is planned as a
// small program of its own.
//
// # Differences between the two
//
// They differ only where it matters who owns the mount:
//
//   - The request to end on the control socket. MountAndServe unmounts, and refuses while files are
//     in use. ForMounter stops serving at once, even if the mount is in use: its mounter has
//     unmounted it, or wants the server to end.
//   - Signals. MountAndServe unmounts on the first. If the connection has not ended by the second,
//     because files are in use or the volume is also mounted elsewhere, it aborts it. ForMounter
//     ends serving when its context ends.
//   - Permissions. Only a mounter's request formats a blank device, replaces the key that opens a
//     volume, and sets the device's instance ID. Only MountAndServe serves format v1, which does not
//     protect against writers, and updates an anchor file (a mounter's callers read anchors from the
//     control socket).
//   - Errors. ForMounter returns those of package mounter, which its callers distinguish.
//   - Retries on ENOSPC are for raw block volumes, which only mounters serve: see spaceRetry.
//
// # The life of a server
//
//	Open      device, key, format check, anchor; nothing is served yet
//	Attach    takes the FUSE connection; nothing is read from it yet
//	Serve     answers until the mount ends, End stops it or the context ends; then closes
//	          everything in this order: snapshots beside the volume, a mounted snapshot, the anchor
//	          keeper, the volume (its last commit), the last anchor, the device
//
// Callers of End get their answer only after all this: "unmounted" on the control socket means that
// everything is on the device and that another process can open it.
//
// # Snapshot workers
//
// A server that a mounter started hands its data keys to the processes that store snapshots
// (workers.go). It keeps their local snapshots from being deleted, and tells them how busy it is,
// until they close their end of the socket pair. They may outlive it.
//
// # Locks
//
// views.mu guards the snapshots that are mounted beside the volume. It is never held while waiting
// for the kernel or for a request. The same holds for workers.mu, which guards the ends of the socket
// pairs.
package mountserver
