// Package fusefstest mounts file systems for tests, such that a server that
// hangs hangs no test: a mount that outlives its deadline is aborted. RunPOSIX runs
// the suites that every file system must pass on a real mount.
package fusefstest
