// Package fact encodes what a snapshot says about a volume, pkg/volume/logical, as values of the
// map of the snapshot, pkg/snapshot/merkle. docs/snapshot-format.md, "Values", is normative.
//
// Encodings are canonical: each fact has one, and decoders take no other. What a decoder returns is
// a valid fact by itself; whether facts fit together is for those who read several.
//
// Content returns the placeless form of a value: what remains of it if references to chunks say
// what is in them, and not where they are.
package fact
