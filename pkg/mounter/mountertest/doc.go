// Package mountertest is a mount server for tests of processes and mounts: real descriptors, a real mount,
// real death, and in place of an engine a directory of plain files. A test binary becomes it by
// calling Main first thing in TestMain.
package mountertest
