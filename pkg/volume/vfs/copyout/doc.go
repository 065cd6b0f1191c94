// Package copyout copies trees from a vfs.FS to the file system of this machine, without a mount.
// It does not trust the volume: an attacker who could write to the volume cannot make it write
// outside the destination, overwrite existing files, or create files with set-user-ID, set-group-ID
// or file capabilities. A file gets its name only when it is complete.
package copyout
