// Package txn keeps a volume's promises about what is on the device when. It
// knows extents, free space, root slots and the log; it does not know what the
// trees above it mean.
//
// Four promises; everything else may be rewritten freely:
//
//   - I1: a block reachable from one of the two newest durable roots, from the
//     log or from a pin is never written; but a damaged copy of a page or root
//     may be, with the very bytes of its whole copy (MendNode, MendRoots).
//   - I2: a root slot, both copies of it, is written only after a barrier covers
//     all it reaches; another barrier follows before anyone is told.
//   - I3: a block freed in generation g is reused only once g+1 is durable and
//     no pin of a generation up to g is left, so that the older root stays a true
//     fallback. Until then its bit stays set in every bitmap; the list of what g
//     freed hangs from roots g and g+1.
//   - I4: open takes the newest slot whose root verifies, else the next; never a
//     guess. If the log knows of a newer root, open refuses. After a fallback
//     the next generation exceeds any seen.
//
// Space.mu and Log.mu are leaf locks: nothing else is locked and no I/O is done
// under Space.mu but the loading of a region that is not in memory.
package txn
