// Package mounter starts and supervises mount servers. Each volume has a process of its own outside
// of the node plugin, so stopping or upgrading the plugin does not affect any mount.
//
//	node plugin ──unix socket──► mounter ──┬─ mount server (volume A)
//	(Client)                     (Run)     └─ mount server (volume B)   (RunServer → Serve)
//
// The mounter opens the device and /dev/fuse, mounts, and passes both to a server with its own
// session, user and cgroup. A server gets these descriptors:
//
//	3  handshake, a socket pair: configuration, then the steps below
//	4  key pipe: 32 or 64 bytes, then EOF. Keys are never in an argument, the environment or a file,
//	   and the pages of a pipe are never swapped out.
//	5  the device, 6  /dev/fuse, 7  the control socket, listening (package control)
//
// # A mount
//
//	mounter                                 server
//	state "starting" is written
//	starts the server, sends configuration ─►
//	                                        opens (or formats) the volume
//	                                      ◄─ opened, or an error: then nothing was mounted
//	state with its pid is written
//	mount(2)                               ─► mounted
//	                                        answers the kernel's INIT
//	state "running" is written            ◄─ serving
//
// A server that loses the handshake before "mounted" ends. So after any crash of the mounter, every
// server that serves is recorded in a state file, and a server that is not recorded ends on its
// own.
//
// # Death
//
// The mounter holds duplicates of the device and of /dev/fuse, so that a successor can take over
// (planned). Until then, it closes them when the server dies: the kernel aborts the connection, and
// programs get ENOTCONN at once and do not hang. The record stays and says that the server died,
// Health reports it, and the next Mount or Unmount removes the mount. A new mounter finds running
// servers by pid and start time, and takes their descriptors over with pidfd_getfd.
//
// A mount without a record is not touched at start. The next Mount or Unmount of the volume removes
// it. If anything else is mounted at the target, Mount fails (Mounter.free).
//
// # Snapshot workers
//
// A mounter also starts the processes that store snapshots of mounted volumes, one per volume
// (packages worker and workerctl). It makes what confines them, opens the device anew for reading
// only, and makes the socket pair on which the mount server hands its keys over. The pipe with the
// caller's secrets is passed on unread. A worker has a record of its own, worker.json, beside that of
// its volume, and survives mount server and mounter. It ends before its volume is unmounted.
//
//	mounter                        worker                          mount server
//	record is written
//	starts it, sends configuration ─►
//	                               ◄─ confined
//	OpBegin, with a socket ──────────────────────────────────────────► makes the local snapshot
//	                               ◄── keys, states (on the socket) ──
//	                               ◄─ started
//	OpWait ───────────────────────►
//	record of the outcome          ◄─ result, then it exits
//	OpEnd ───────────────────────────────────────────────────────────► keeps or deletes
//
// The mounter never looks up a path inside a mount. It recognises mounts in /proc/self/mountinfo,
// unmounts them by the path of a directory above, and gets statistics through the control socket.
//
// # Locks
//
// Mounter.mu guards the map of volumes. A volume's own lock (a channel, so that waiting can end
// with a context) is held through a whole operation and guards its record. mu is never held while
// waiting for it. snapWorker.mu guards what is known about a worker and its record; it is taken last,
// and never held while waiting.
package mounter
