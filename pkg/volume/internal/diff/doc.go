// Package diff compares two snapshots of a volume: it goes over the items that differ
// (tree.Diff) and tells what that means for paths (names.go) and for the content of files
// (ranges.go). Time and memory are bounded by what is different, not by what there is; only names
// of inodes that an earlier version of the format wrote need one pass over all names.
//
// It reads two trees that nobody changes or frees meanwhile: that is for the engine to see to,
// which alone comes in.
package diff
