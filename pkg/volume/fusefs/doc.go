// Package fusefs serves a vfs.FS to the Linux kernel over FUSE.
//
// # Roles
//
// A mounter, which is privileged or uses fusermount3, calls Mount. Mount opens /dev/fuse, mounts it
// and returns the descriptor. The mounter may pass it to another process, which needs no
// privileges: NewServer and Server.Serve answer the kernel there. When Server.Ready is closed, the
// mounter calls Tune. Unmount ends Serve. AbortConnection ends it if the server no longer answers.
// Retire detaches the FS from a server whose mount this process cannot reach.
//
// A process that holds the descriptor must never open a file on the mount. Closing the file, or
// fork and exec, could wait for an answer that only this process can give.
//
// # One request
//
// Each handler goroutine (Server.loop) reads a request from the descriptor into its own buffer.
// go-fuse's ProtocolServer decodes the request and calls a method of raw, which calls the FS once
// and encodes the answer. One write(2) returns the answer. The data of a WRITE is a slice of the
// request buffer, and READ fills the buffer of write(2) directly, so data is not copied. Buffers
// hold 1 MiB of data. A few goroutines always wait in read(2). If all are busy, more are started,
// up to Options.MaxHandlers.
//
// # Who owns what
//
// Node ids are inode numbers. There are no file handles: OPEN and OPENDIR are answered with ENOSYS.
// After that, the kernel opens files without a request, and keeps its caches. CREATE is also
// answered with ENOSYS, so creating a file is one MKNOD, and closing it needs no request. The
// kernel may cache entries (including negative ones) and attributes for an hour, because the server
// is the only writer. The kernel itself drops cached data that its own requests change. There is
// one exception, which the server reports to the kernel: suid and sgid bits that a write clears
// (suidSet).
//
// This package owns the lookup counts (refs), the number of references that the kernel has to each
// inode. When a count reaches zero, the FS may Forget the inode. The FS owns everything else. Locks
// (flock, fcntl) are handled in the kernel.
//
// Only SetAttr changes access times. Reading does not, because mounts are noatime.
//
// # Lock order
//
// First the shard lock of refs, then locks of the FS (in FS.Forget). So callbacks of the FS must
// not take a shard lock: the entries of ReadDir are counted after it has returned. The lock of
// suidSet and raw.failMu are innermost.
package fusefs
