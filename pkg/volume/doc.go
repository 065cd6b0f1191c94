// Package volume is format v2: an encrypted copy-on-write filesystem on one
// device, opened by one process. Volume implements vfs.FS.
//
// # The way of one write
//
// Write (file.go) reserves room (admit.go), locks the inode, and makes the
// change inside the gate: it appends the operation to the ring, then copies the
// bytes to the inode's dirty blocks. It returns; nothing is on the device.
// A flusher (flush.go) seals dirty blocks into extents, puts their records into
// the tree and writes them, as soon as a block is full or much is dirty.
// Sync (sync.go) seals the ring's tail into the log: one write, one flush.
// A commit (commit.go) flushes what is left, freezes tree and space, writes
// their pages and then the root. Opening after a crash reads the newest root
// and applies the log's operations (replay.go) by the functions that applied
// them first (apply.go).
//
// # Who owns what
//
//   - Volume.fs owns the tree: names, attributes, extents as of the open generation.
//   - Volume.shares counts the references to what files share (share.go); it is
//     changed from within changes of the tree that refers.
//   - inode owns what is newer than the tree: attributes and dirty blocks.
//   - txn.Space owns free space; txn.Ring and txn.Log the operations.
//   - Volume.adm owns every limit: memory, ring, space.
//   - Volume.keys owns the header and the VMKs; Volume.rot the walk of a rotation; Volume.anc the anchors.
//   - Volume.snap owns what is known of snapshots, and what the open generation
//     adds to dead lists; Volume.snaps has the rest.
//   - Volume.res counts what reserved ranges promise (reserve.go); it is changed from
//     within changes of the tree, and where a snapshot is taken.
//   - The committer is the only writer of roots and of the space tree.
//
// # Locks
//
// In this order:
//
//	snapshots.manage one change of snapshots at a time
//	Volume.keys.mu one change of the header at a time (changeKeys)
//	Volume.anc.one one offer of an anchor at a time
//	Volume.ns      one change of names at a time
//	inode.mu       one operation that changes an inode; two in ascending order
//	Volume.gate    read: a change is being made; write: a commit ends the generation
//	tree locks     in the order of Volume.trees
//	inode.bmu      blocks of one inode
//	Volume.dirtyMu, admission.mu
//	flusher.mu, inodeTable.mu, snapshots.mu, txn's locks
//
// Beside them: keys.mu comes before committer.run, which a commit and a write of
// the header hold; Store.rootMu before nothing but I/O. Who mends, discards or
// wipes begins with enter, without locks: a freeze waits for its end.
//
// Nobody waits for a commit, and no flusher waits for an inode, while it is
// inside the gate. The committer holds the gate alone while it ends a
// generation and takes no inode.mu there: whoever holds one may be waiting at the gate.
package volume
