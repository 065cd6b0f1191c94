// Package manifest has the formats of a snapshot that need keys: the sealed body
// of a manifest, the card that a list of snapshots shows, and the objects that
// hold key slots. docs/snapshot-format.md is normative.
//
// What it opens is bound together: a card names its manifest by hash, the body
// names the clear head by hash, and all are sealed for one snapshot. So an old
// card, another tenant's, or one manifest instead of another is refused, each
// with an error of its own. Decoders are strict, also under valid keys.
package manifest
