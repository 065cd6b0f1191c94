// Package fusefs serves a vfs.FS to the Linux kernel over FUSE.
//
// # Who does what
//
// A mounter (privileged, or with the help of fusermount3) calls Mount, which
// opens /dev/fuse, mounts it and returns the descriptor; it may hand that to
// another process, which needs no privilege: NewServer and Server.Serve there
// answer the kernel. Once Server.Ready is closed the mounter calls Tune. Unmount ends
// Serve; AbortConnection ends it when the server no longer answers.
// Retire takes the FS away from a server whose mount this process cannot reach.
//
// A process that holds the descriptor must never open a file on the mount:
// closing it, or fork and exec, could wait for an answer that only this process gives.
//
// # One request
//
// Each handler goroutine (Server.loop) reads a request from the descriptor into
// its own buffer, go-fuse's ProtocolServer decodes it and calls the method of
// raw for it, which makes one call to the FS and encodes the answer; one write(2)
// returns it. The data of WRITE is a slice of the request buffer and that of
// READ is filled in where write(2) takes it from, so neither is copied here.
// Buffers hold 1 MiB of data. A few goroutines always wait in read(2); more are
// started while all are busy, up to Options.MaxHandlers.
//
// # Who owns what
//
// Node ids are inode numbers, and there are no handles: OPEN and OPENDIR are
// answered ENOSYS, after which the kernel opens without asking and keeps its
// caches. CREATE is answered ENOSYS as well, so that creating a file is one MKNOD
// and closing it nothing at all. We are the only writer, so entries (also
// negative ones) and attributes may stay in the kernel for an hour; the kernel
// itself drops what its own requests change. The one thing it does not notice,
// suid and sgid cleared by a write, we tell it (suidSet).
//
// This package owns the lookup counts (refs): how often the kernel knows each
// inode. When a count falls to zero the FS may Forget the inode. The FS owns
// everything else. Locks (flock, fcntl) stay in the kernel.
//
// Access times are what SetAttr makes them; reading does not change them (mounts are noatime).
//
// # Lock order
//
// refs' shard lock, then locks of the FS (in FS.Forget). So nothing takes a shard
// lock inside a callback of the FS: ReadDir's are counted after it returned.
// suidSet's lock and raw.failMu are innermost.
package fusefs
