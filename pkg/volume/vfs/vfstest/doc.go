// Package vfstest helps to test implementations of vfs.FS: MemFS, a simple and
// complete one in memory, to compare with; Run, the suite that every
// implementation passes; Compare, which makes random changes to two of them and
// compares everything; and Snapshot, which describes a whole tree.
package vfstest
