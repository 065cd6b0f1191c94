// Package gc deletes what no snapshot of a store needs any more. It has no keys:
// it imports the store and pkg/snapshot/format alone, which pkg/deps_test.go
// enforces. Any number of pruners, writers (pkg/snapshot/commit) and readers may
// run at once; there is no lock, and no clock on which safety depends.
//
// One pass does, in this order:
//
//	P1  asks the store for the time; reads the records of what earlier passes
//	    condemned; lists packs and pages
//	P2  lists snapshots, then leases. Puts a void card, if there is none, on each
//	    snapshot that has no card and no lease; on each that has a tomb older than
//	    Options.Undelete about which this or another pruner put the verdict VOID
//	    first, it replaces the card by a void one
//	P3  lists leases anew, and puts a void card, if there is none, on each snapshot
//	    whose writer's lease has expired
//	P4  lists snapshots anew. Roots are those with a manifest that were not void
//	    before P3, and those that a lease of P3 names as a base
//	P5  what no root's list names, of an attempt that no lease of P3 names, is
//	    unneeded. Unneeded objects that an earlier pass condemned, Options.Grace
//	    ago, are deleted; other unneeded ones are condemned in a new record
//	P6  a record whose objects are all gone, or named by roots with a real card, is
//	    removed; so are all parts of void snapshots but their cards, which stay for
//	    ever, and leases that ended
//
// A snapshot is garbage if and only if its card is void, and a void card never
// changes. All else follows; docs/snapshot-format.md, "Protocol", has the proof,
// and model_test.go runs this very code against it, with each rule left out in
// turn.
package gc
