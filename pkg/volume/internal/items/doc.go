// Package items is what the items of the trees mean to those who read them: their keys, the hashes
// of names, extents with their place, reserved ranges, runs of the reference-count tree, and the way from an
// inode to its path. How an item's value is encoded is layout's; this package knows how items
// belong together.
//
// It owns no state and takes no lock. Functions that read get the Scan or ScanFloor of a tree, or
// of its writer within a change: what they find is as consistent as what they were given.
//
// The engine comes in (pkg/volume), and who reads trees without it: check, the walks of a scrub and
// of a comparison. What changes a tree stays with the owner of that tree.
package items
