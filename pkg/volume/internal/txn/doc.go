// Package txn keeps a volume's promises about the content of the device at each time. It knows
// extents, free space, root slots and the log. It does not know the meaning of the trees above it.
//
// It keeps four promises. Everything else may be rewritten freely:
//
//   - I1: a block reachable from one of the two newest durable roots, from the
//     log or from a pin is never written. Exception: a damaged copy of a page or
//     root may be rewritten with the same bytes as its intact copy (MendNode,
//     MendRoots).
//   - I2: a root slot, both copies of it, is written only after a barrier covers
//     everything it reaches. Another barrier follows before anyone is told.
//   - I3: a block freed in generation g is reused only once g+1 is durable and
//     no pin of a generation up to g is left, so that the older root stays a true
//     fallback. Until then its bit stays set in every bitmap. Roots g and g+1
//     refer to the list of what g freed.
//   - I4: open takes the newest slot whose root verifies, else the next one. It
//     never guesses. If the log knows of a newer root, open refuses. After a
//     fallback the next generation exceeds any seen.
//
// Space.mu and Log.mu are leaf locks: under them, nothing else is locked. The only I/O under
// Space.mu is the loading of a region that is not in memory.
package txn
