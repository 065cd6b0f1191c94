// Package commit is the writers' and readers' side of the protocol by which
// snapshots come into a store and leave it, while pruners (pkg/snapshot/gc)
// delete what nothing needs, with no lock and without trusting a clock.
// docs/snapshot-format.md, "Protocol", is normative and has the proof.
//
// A writer of snapshot B:
//
//	W1  puts a lease on B, which names the base A and all attempts that it uses
//	W2  then checks that A's card is real, and reads A's manifest; else it works
//	    without A
//	W3  then, if it takes over packs of an earlier attempt: takes those that are
//	    in no record under gc/, and then those of them that are there
//	W4  puts packs, pages, all below its own attempt, then keys, manifest
//	W5  puts B's card, if there is none: the commit. If a void one stands there,
//	    B can never be whole: it begins again at W1 as another snapshot
//	W6  deletes the lease
//
// Whoever forgets a snapshot puts a tomb. Whoever undeletes it puts the verdict
// KEEP about that tomb, if there is none: if VOID stands there, it is too late.
//
// The package sees no key and no plaintext: manifest, keys and card come sealed.
package commit
