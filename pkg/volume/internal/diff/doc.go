// Package diff compares two snapshots of a volume. It visits the items that differ (tree.Diff), and
// derives changes of paths (names.go) and of file content (ranges.go). Time and memory depend on
// the size of the differences, not of the volume. Only if names of inodes were written by an
// earlier version of the format, one pass over all names is needed.
//
// It reads two trees. The engine, its only user, ensures that nobody changes or frees them
// meanwhile.
package diff
