// Package worker is the process of a snapshot worker, which a mounter starts for a mounted volume:
// it reads one local snapshot of the volume and stores it. What it does with the data is a Job,
// which the program gives to Run; this package is everything around it.
//
//	mounter ──► Run ── confine ── keys ── Job(Env) ── result ──► mounter (OpWait)
//
// # What a worker can reach
//
// It has the volume's data keys and the tenant's secret, so it has nothing else: another user, no
// capability and no way to get one (no_new_privs, empty bounding set), a network namespace of its
// own whose only interface is a loopback that is down, process and IPC namespaces of its own, an
// empty environment, and these descriptors (package workerctl):
//
//	3  handshake, until it has started       6  control socket, listening
//	4  socket pair to the mount server       7  pipe with secrets, until it has started
//	5  the device, read-only                 8  socket to the store, whose other end has the network
//
// The mounter makes all this before the program starts. Run verifies it, and asks for no key
// otherwise. Run also makes the process non-dumpable and limits its memory.
//
// # The store's socket
//
// The other end belongs to the caller, which may be restarted. When the socket ends, operations
// wait for another one, which comes through the mounter (OpStore), and are then repeated: see Store.
//
// # Being nice
//
// All reads of the device are paced by how long the requests of the volume's users take (package
// pacing), as the mount server says five times a second.
//
// # The end
//
// The result stays in the process until somebody has waited for it (OpWait), at most ten minutes:
// so a mounter that was restarted meanwhile gets it. SIGTERM cancels the job and ends the process
// without that wait. Keys are erased as soon as the job has returned.
//
// # Locks
//
// Store.mu guards which connection is used, and run.mu the status. Neither is held while waiting or
// while the other is taken.
package worker
