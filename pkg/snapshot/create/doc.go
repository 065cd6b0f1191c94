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
// owns the map. Memory is bounded: packs being filled and in flight, a queue of facts, a worker's
// buffers, and the caches of pinned and merkle.
package create
