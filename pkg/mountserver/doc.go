// Package mountserver is the process that serves one volume to the kernel: it opens the volume,
// answers FUSE requests, and answers callers on a control socket. Both programs that serve volumes
// are thin users of it, so that every mount has the same features:
//
//	sealvol mount   Open, then Server.MountAndServe: the process makes its own mount
//	driver mount    mounter.RunServer(ForMounter): a mounter makes the mount, the server serves it
//
// The package imports neither Kubernetes nor cloud SDKs: a mount server is to become a small
// program of its own.
//
// # What differs between the two
//
// Only what follows from who owns the mount:
//
//   - End of service on the control socket. MountAndServe unmounts, and refuses while files are in
//     use. ForMounter stops serving at once, whoever uses the mount: its mounter has unmounted, or
//     wants the server gone.
//   - Signals. MountAndServe unmounts on the first and aborts on the second. ForMounter's context
//     ends serving.
//   - What is allowed. Only a mounter's request formats a blank device, replaces the key that opens
//     a volume, and names the device's instance. Only MountAndServe serves format v1, which does not
//     protect against writers, and keeps an anchor file (a mounter's callers fetch anchors by the
//     control socket).
//   - Errors. ForMounter's are those of package mounter, which its callers tell apart.
//   - Retries on ENOSPC are for raw block volumes, which only mounters make: see spaceRetry.
//
// # The life of a server
//
//	Open      device, key, format check, anchor; nothing is served yet
//	Attach    takes the FUSE connection; nothing is read from it yet
//	Serve     answers until the mount ends, End stops it or the context ends; then closes
//	          everything in this order: snapshots beside the volume, a mounted snapshot, the anchor
//	          keeper, the volume (its last commit), the last anchor, the device
//
// Callers of End have their answer only when that has ended: "unmounted" on the control socket
// means that everything is on the device and that another process can open it.
//
// # Locks
//
// views.mu guards the snapshots that are mounted beside the volume. It is never held while waiting
// for the kernel or for a request.
package mountserver
