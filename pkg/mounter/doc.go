// Package mounter starts and supervises mount servers: one process per volume, outside of the node
// plugin, so that stopping or upgrading the plugin touches no mount.
//
//	node plugin ──unix socket──► mounter ──┬─ mount server (volume A)
//	(Client)                     (Run)     └─ mount server (volume B)   (RunServer → Serve)
//
// The mounter opens the device and /dev/fuse, makes the mount and hands both to a server of its own
// session, user and cgroup. What a server gets, by descriptor:
//
//	3  handshake, a socket pair: configuration, then the steps below
//	4  key pipe: 32 or 64 bytes, then its end. Keys never are in an argument, the environment or a file,
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
// A server that loses the handshake before "mounted" ends. So whatever the mounter dies of, a server
// that serves is in a state file, and one that is not in any ends by itself.
//
// # Death
//
// The mounter holds duplicates of the device and of /dev/fuse, for takeover by a successor (to
// come). Until then the death of a server closes them: the kernel aborts the connection and users of the mount
// get ENOTCONN at once instead of hanging. The record stays as dead, Health says so, and the next Mount or
// Unmount clears the mount away. A new mounter finds living servers by pid and start time through their
// control sockets and takes their descriptors over with pidfd_getfd.
//
// The mounter never looks at a path inside a mount: mounts are recognised in /proc/self/mountinfo,
// unmounted by the path of a directory above, statistics come through the control socket.
//
// # Locks
//
// Mounter.mu guards the map of volumes; a volume's own lock (a channel, so that waiting can end with a
// context) is held through a whole operation and guards its record. mu is never held while waiting for it.
package mounter
