// Package volume is the engine of format v2: an encrypted copy-on-write filesystem on one
// device, opened by one process. Volume implements vfs.FS.
//
// # The way of one write
//
// Write (write.go) reserves room (admission.go), locks the inode, and makes the
// change inside the gate: it appends the operation to the ring, then copies the
// bytes to the inode's dirty buffers. It returns; nothing is on the device.
// A flusher (flushqueue.go, flushseal.go) seals dirty buffers into extents, puts their records into
// the tree and writes them, as soon as a buffer is full or much is dirty.
// Sync (sync.go) seals the ring's tail into the log: one write, one flush.
// A commit (commit.go) flushes what is left, freezes tree and space, writes
// their pages (commitwrite.go) and then the root. Opening after a crash reads the newest root
// and applies the log's operations (replay.go) by the functions that applied
// them first (apply.go).
//
// # Who owns what
//
// Volume is the sum of its owners. Each has a field of Volume, its own methods, and knows the
// Volume (Volume.own). They are one package because they share one order of locks.
//
//   - storage owns the device, free space, log and ring, and the newest durable root; forest the trees
//     of the open generation: names, attributes, extents (fs), and references to what files share
//     (internal/shares); timeline the gate, the open generation and the numbers of operations.
//   - inode owns what is newer than the tree: attributes and dirty buffers. inodeTable has one of
//     each number, and lists the dirty ones; namespace changes names; contents what files hold.
//   - admission owns every limit: memory, ring, space. What an operation holds besides, it gets and
//     gives back by operate (operate.go).
//   - flusher owns what is on its way to the device; syncer what goes to the log; committer is the
//     only writer of roots and of the space tree; freezer keeps both from writing.
//   - keyring owns the header and the VMKs; rotator the walk of a rotation; anchors the anchors.
//   - snapshots owns what is known of snapshots, what the open generation adds to dead lists, and the
//     tree that has the rest.
//   - reservations counts what reserved ranges promise (reserve.go); it is changed from
//     within changes of the tree, and where a snapshot is taken.
//   - background owns long work, which Close ends: the reaper of deleted files, discards, scrub,
//     defrag, comparisons.
//
// # Locks
//
// In this order:
//
//	snapshots.manage one change of snapshots at a time
//	keyring.mu     one change of the header at a time (keyring.change)
//	anchors.one    one offer of an anchor at a time
//	namespace.mu   one change of names at a time
//	inode.mu       one operation that changes an inode; two in ascending order
//	timeline.gate  read: a change is being made; write: a commit ends the generation
//	tree locks     in the order of forest.trees
//	inode.bmu      buffers of one inode
//	inodeTable.dirtyMu, admission.mu
//	flusher.mu, inodeTable.mu, snapshots.mu, txn's locks
//
// Beside them: keyring.mu comes before committer.run, which a commit and a write of
// the header hold; Store.rootMu before nothing but I/O. Who mends, discards or
// wipes begins with freezer.enter, without locks: a freeze waits for its end.
//
// Nobody waits for a commit, and no flusher waits for an inode, while it is
// inside the gate. The committer holds the gate alone while it ends a
// generation and takes no inode.mu there: whoever holds one may be waiting at the gate.
//
// # Who may come in
//
// Whoever serves a volume (pkg/mountserver, the commands). What can be told of a device without the
// engine is told without it: pkg/volume/check is fsck and never imports this package. Below both lie
// internal/header (from the device to the newest root), internal/items (what items mean) and
// internal/{txn,tree,layout}; internal/{diff,probe,shares} serve this package alone.
package volume
