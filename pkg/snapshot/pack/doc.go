// Package pack puts sealed chunks into packs and finds them again, by way of the
// pack list of a snapshot. docs/snapshot-format.md is normative.
//
//	sealed chunk ─ Writer.Add ─► open pack ─ full ─► hash, Put ─► entry of the list
//	                   └► packed reference (pack number, slot, offset)
//	reference ─ Reader.Open ─► list ─► range of a pack ─► payload, verified
//
// # Who owns what
//
// A [Writer] has at most three packs open and Options.InFlight in progress, each
// of Options.PackBytes: that is its memory. It owns the goroutines that upload;
// Flush and Close wait for them. A [List] keeps the pages that were used last, in
// at most 8 MiB. An [Index] finds what earlier attempts at the same snapshot have
// stored; it owns the goroutines that read their tables, and Close waits for them.
// Its memory is 64 bytes for each of their packs, and about 8 MiB. All are safe
// for concurrent use. Lock order: Index, Builder; Writer, Builder.
//
// A list only grows, until a recount by somebody who walked the snapshot: so no
// bookkeeping can lose what is needed.
package pack
