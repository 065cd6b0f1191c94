// Package items knows the meaning of the items in trees: keys, hashes of names, extents with their
// place, reserved ranges, runs of the reference-count tree, and the path of an inode. Package
// layout encodes values; this package knows how items belong together.
//
// It owns no state and takes no lock. Functions that read are given Scan or ScanFloor of a tree, or
// of its writer inside a change: their results are as consistent as that.
//
// Its users are the engine (pkg/volume), and readers of trees without it: check, scrub and diff.
// Changes of a tree belong to the owner of that tree.
package items
