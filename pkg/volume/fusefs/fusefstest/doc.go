// Package fusefstest mounts file systems for tests. A mount that exceeds its deadline is aborted,
// so a server that hangs does not block the test. RunPOSIX runs the test suites that every file
// system must pass on a real mount.
package fusefstest
