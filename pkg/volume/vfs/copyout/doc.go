// Package copyout copies trees from a vfs.Reader to the file system of this machine, without a
// mount. It does not trust the volume: an attacker who could write to the volume cannot make it write
// outside the destination, overwrite existing files, or, without Options.Privileged, create device
// nodes or files with set-user-ID, set-group-ID or file capabilities. A file gets its name only when
// it is complete.
//
// # The way of a file
//
// entry makes an inode under its first name; a file without a name where the file system can do that
// (O_TMPFILE). Content is copied at once, or, with Options.Fetch, collected: the file then waits in
// the queue until a window of content has been fetched. finish sets its attributes and gives it its
// name, and further names that the walk has met meanwhile. A directory stays open until its last file
// is finished, and then gets its attributes, because names change its times.
//
// One goroutine does all that. Only queue.Write and queue.Failed are called concurrently.
package copyout
