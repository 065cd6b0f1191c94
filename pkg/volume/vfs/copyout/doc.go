// Package copyout copies trees out of a vfs.FS to the file system of this machine, without a mount.
// It trusts nothing that it reads: whoever has written to the volume can make it write neither outside
// of the destination, nor over what exists, nor with set-user-ID, set-group-ID or file capabilities.
// A file appears under its name only when it is whole.
package copyout
