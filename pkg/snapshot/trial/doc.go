// Package trial restores a stored snapshot into a scratch volume, to prove that it can be restored.
//
//	store ── restore.Run ──► scratch volume ── check ── create.Run ──► nowhere
//	  └── content hash of the snapshot ═══ must equal ═══ content hash ──┘
//
// The restored volume is checked as fsck does. Then it is read as a snapshot of it would be: by
// other code than that which wrote it. The content hash of its map (docs/snapshot-format.md) covers
// all attributes, names and bytes, so the volume equals the snapshot if and only if both hashes are
// equal. What a snapshot would store is thrown away.
//
// The key of the scratch volume is random, and never leaves the memory of the process.
package trial
