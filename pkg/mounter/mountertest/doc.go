// Package mountertest is a mount server for tests of processes and mounts: real descriptors, a real
// mount, a real death. Instead of an engine, it serves a directory of plain files. A test binary
// becomes such a server by calling Main at the start of TestMain.
package mountertest
