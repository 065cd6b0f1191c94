// Package check is the fsck of format v2. It reads everything that the newest root of a volume
// refers to and reports inconsistencies. It writes nothing.
//
// It shares no code with the engine that writes (pkg/volume), except for encodings and for finding
// a header and a root, so that one mistake is not made on both sides. It has its own code to count
// references, sums and free space.
//
// # Order
//
// Run judges the header and the root slots (roots.go), reads the log without applying it, and walks
// the trees (walk.go). Tree 4 comes first, because shared blocks must be known before references
// are counted. The file system (inodes.go, items.go, reserved.go), free space, snapshots
// (snapshots.go) and anchors follow. For each page and each item it records which blocks they refer
// to (use.go). Then it compares links (links.go), reserved ranges, snapshots and their dead lists
// (snapwalk.go, deadlists.go), free lists, reference counts (shares.go), and finally the maps of
// free space (space.go). Other goroutines verify data meanwhile (data.go). The paths of damaged
// files are looked up at the end (names.go).
//
// checker owns all state. One goroutine uses it, except for the fields that its mu guards.
//
// Any program with a device and a key may use this package. It never imports pkg/volume.
package check
