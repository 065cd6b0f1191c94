// Package create writes snapshots of volumes into stores.
//
// The way of one byte: pinned.Diff walks what differs between two local snapshots, in the order of
// the map's keys. A queue keeps that order while workers read changed content, seal it and put it
// into packs (selfenc.PackedSealer, pack.Writer). merkle.Update takes the facts from the queue and
// makes the nodes of the map that change. When all packs are stored, pages of the list, manifest
// and keys follow, and the card last (pkg/snapshot/commit): the snapshot is whole then, or not
// there at all.
//
// A first snapshot is one since nothing; there is no other code for it. Without the local snapshot
// of the base, but with the base in the store, everything is read, and only what the base does not
// have is stored.
//
// # Who owns what
//
// A job belongs to one call of Run. Its walk is one goroutine, which alone calls the visitor's
// methods; workers own their file until its result is in the queue; the caller of merkle.Update
// owns the map.
//
// # Memory
//
// A job needs at most 128 MiB, whatever the volume has, if the limit of the program is MemoryLimit.
// In MiB, with packs of 16:
//
//	52  packs: two in flight, one of data and a shorter one of metadata that are being filled
//	12  sealer: batches of content in work, 3 of 1 MiB, each as plaintext and sealed, and encoders
//	 6  references of chunks that were stored, to store equal ones once
//	 6  nodes of the maps of files
//	 6  nodes of the map
//	 8  the queue of facts, if all are extended attributes of 64 KiB; else less than 1
//	 8  pages of the volume's metadata (pinned.Options.Memory, of whoever opens the volume)
//	14  the program itself
//
// What is in the packs that are in flight at the end is freed before a recount.
package create
