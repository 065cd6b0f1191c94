// Package volume is the engine of format v2: an encrypted copy-on-write file system on one device,
// opened by one process. Volume implements vfs.FS.
//
// # The path of a write
//
// Write (write.go) reserves memory and space (admission.go) and locks the inode. Inside the gate it
// appends the operation to the ring and copies the bytes to the inode's dirty buffers. Then it
// returns; nothing is on the device yet.
//
// A flusher (flushqueue.go, flushseal.go) seals dirty buffers into extents, stores their records in
// the tree and writes them. It does so as soon as a buffer is full or much data is dirty.
//
// Sync (sync.go) seals the tail of the ring into the log: one write, one flush.
//
// A commit (commit.go) flushes the remaining buffers, freezes trees and space, writes their pages
// (commitwrite.go) and then the root. After a crash, Open reads the newest root and replays the
// operations in the log (replay.go), using the functions that applied them first (apply.go).
//
// # Who owns what
//
// Volume consists of owners. Each is a field of Volume, has its own methods, and has a pointer to
// the Volume (Volume.own). They are one package because they share one order of locks.
//
//   - storage owns the device, free space, log and ring, and the newest durable root. forest owns
//     the trees of the open generation: names, attributes and extents (fs), and reference counts
//     (internal/shares). timeline owns the gate, the open generation and the numbers of
//     operations.
//   - inode owns what is newer than the tree: attributes and dirty buffers. inodeTable has at most
//     one inode for each number, and lists the dirty ones. namespace changes names. contents owns
//     the data of files.
//   - admission owns every limit: memory, ring, space. Volume.operate (operate.go) gets everything
//     that an operation holds, and gives it back.
//   - flusher owns data that is on its way to the device. syncer owns what goes to the log.
//     committer is the only writer of roots and of the space tree. freezer stops all of them from
//     writing.
//   - keyring owns the header and the VMKs, rotator the walk of a rotation, and anchors the
//     anchors.
//   - snapshots owns the state of snapshots, new entries of dead lists, and tree 3.
//   - reservedRanges counts what reserved ranges promise (reserve.go). It is changed inside
//     changes of the tree, and when a snapshot is taken.
//   - Loader (load.go) fills a volume that is being restored from a stored snapshot. It uses the
//     owners above, but makes no operations. Nobody else has such a volume open.
//   - background owns long-running work, which Close ends: the reaper of deleted files, discards,
//     scrub, defrag, comparisons.
//
// # Locks
//
// In this order:
//
//	Loader.mu      one fact at a time
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
// In the code, by the fields of Volume: snap.manage, keys.mu, anc.one, names.mu, inode.mu, gate, tree
// locks, inode.bmu, then table.dirtyMu and adm.mu, then flush.mu, table.mu and snap.mu.
//
// In addition, keyring.mu comes before committer.run, which a commit and a write of the header
// hold. Under Store.rootMu there is only I/O. Repairs, discards and wipes begin with freezer.enter,
// without locks: a freeze waits for their end.
//
// Inside the gate, nobody waits for a commit, and no flusher waits for an inode. The committer
// holds the gate exclusively while it ends a generation. It takes no inode.mu there, because the
// holder of one may be waiting at the gate.
//
// # Who uses this package
//
// Programs that serve a volume (pkg/mountserver, the commands). What needs no engine does not use
// it: pkg/volume/check is fsck and never imports this package. Both are built on internal/header
// (from the device to the newest root), internal/items (the meaning of items) and
// internal/{txn,tree,layout}. Only this package uses internal/{diff,probe,shares}.
package volume
