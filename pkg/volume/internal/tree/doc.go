// Package tree is the copy-on-write B+tree that holds all metadata.
//
// The parts of a Tree that were read are in memory. Pages that equal the device are in a Cache,
// which is bounded and shared by all trees of a volume. Pages changed since the last commit hang
// from their parents until the commit that contains them is done. A page belongs to the generation
// in which it became dirty, and is changed in place only in that generation; later changes copy it.
// So Freeze, which ends a generation, is O(1), and a commit writes a frozen tree while the next
// generation continues with changes.
//
// Locks: Tree.mu guards the page graph. A read never holds it across device I/O: if a page is not
// in memory, the read releases the lock, loads the page into the cache, and starts again. A change
// loads pages under the lock. This is rare, because it has usually read the same path just before.
// Cache.mu is a leaf lock.
//
// When the tree drops a page that a durable root may reach, it tells the owner (Config.Free), which
// maintains invariants I1 and I3 of package txn.
package tree
