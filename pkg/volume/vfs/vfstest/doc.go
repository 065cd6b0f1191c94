// Package vfstest tests implementations of vfs.FS. MemFS is a simple and complete implementation in
// memory, which serves as a model. Run is the test suite for every implementation. Compare makes
// random changes to two file systems and compares them. Snapshot describes a whole tree.
package vfstest
