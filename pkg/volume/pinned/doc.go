// Package pinned reads the state that a local snapshot holds, from a device that another process may
// have mounted read-write at the same time. It is for those who store snapshots elsewhere.
//
// It works without the engine (pkg/volume), takes no lock, replays no log and writes nothing. It
// relies on two facts. What a snapshot reaches is not written while the snapshot exists. And
// everything is read along pointers that authenticate it: if the snapshot is deleted meanwhile and
// its blocks are used again, the result is an error, never wrong bytes.
//
// Only the way to a snapshot changes meanwhile: header, root slots and the list of snapshots
// (root.go). It is read again if it does not verify and something newer has been written.
//
// # Facts
//
// Diff reports facts (pkg/volume/logical) in the order of their keys. It hides how the volume keeps
// them: where data lies, in how many pieces, and inodes without a name. Time and memory depend on
// the pages of metadata that differ between two states, not on the size of the volume.
//
// # Files
//
// pinned.go opens a device. root.go finds snapshots. ref.go encodes the reference with which one
// process hands a snapshot over to another. read.go reads content. diff.go compares inode by inode,
// with the parts facts.go and dirty.go.
//
// All methods of Volume, State and File may be called concurrently. There are no locks of its own
// but Volume.mu, which serializes reading the header.
package pinned
