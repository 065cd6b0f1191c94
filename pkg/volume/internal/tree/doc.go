// Package tree is the copy-on-write B+tree that holds all metadata.
//
// A Tree lives in memory as far as it has been read. Pages that the device
// holds are in a Cache, shared by all trees of a volume and bounded; pages
// changed since the last commit hang from their parents by pointer until the
// commit that contains them is done. A page belongs to the generation in which
// it became dirty and is changed in place only in that generation; later
// changes copy it. So Freeze, which ends a generation, is O(1), and a commit
// writes a frozen tree while the next generation goes on changing its own.
//
// Locks: Tree.mu guards the page graph. It is never held across device I/O on
// a read: a read that meets a page that is not in memory gives up the lock,
// loads the page into the cache and starts again. A change loads under the
// lock, which is rare: it has read the same path a moment ago.
// Cache.mu is a leaf lock.
//
// When the tree drops a page that a durable root may reach, it tells the owner
// (Config.Free), who keeps invariants I1 and I3 of package txn.
package tree
