// Package check is the fsck of format v2: it reads all that the newest root of a volume refers to
// and reports what does not fit together. It writes nothing.
//
// It shares no code with the engine that writes (pkg/volume), except for how things are encoded and
// how a header and a root are found, so that one mistake is not made on both sides: it counts
// references, sums and free space its own way.
//
// # Order
//
// Run judges the header and the root slots (roots.go), reads the log without applying it, and walks
// the trees (walk.go): shares first, since what is shared must be known before references are
// counted, then the filesystem (inodes.go, items.go, reserved.go), free space, snapshots
// (snapshots.go) and anchors. At each page and each item it notes what refers to which blocks
// (use.go). Then it compares: links (links.go), reserved ranges, snapshots with their dead lists
// (snapwalk.go, deadlists.go), free lists, shares (shares.go) and at last the maps of free space
// (space.go). Data is opened beside that (data.go), and the paths of what is damaged are looked up
// at the end (names.go).
//
// checker owns everything; one goroutine uses it, but for what its mu guards.
//
// Whoever has a device and a key may come in. It never imports pkg/volume.
package check
