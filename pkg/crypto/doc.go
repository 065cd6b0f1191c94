// Package crypto implements the cryptography of volume format v2 and of snapshots. It is the only
// package that uses ciphers, hashes and key derivation. docs/format.md is the normative
// description, with test vectors in testdata/vectors.json.
//
// # Who owns what
//
// A [Key] is 32 secret bytes in locked memory. [DeriveEpochKeys] turns a
// volume master key (VMK) of one epoch into [EpochKeys], which seal and open
// everything on the device:
//
//	VMK[e] ─ HKDF ─┬─ K_data    file data extents      SealExtent, OpenSegments
//	               ├─ K_meta    every other extent     SealExtent, OpenSegments
//	               ├─ K_root    root slots             SealRoot, OpenRoot
//	               ├─ K_log     intent log frames      SealFrame, OpenFrame
//	               ├─ K_anchor  root anchors           Anchor
//	               ├─ K_hdr     the header             HeaderMAC
//	               └─ commit    binds slots to the VMK Commitment
//
// The VMKs are stored in key slots ([Slot]). A [Recipient] creates a slot, and the matching
// [Credential] opens it. [TenantKeys] and [SnapshotKeys] are the same for chunks and manifests in a
// chunk store.
//
// # Secrets in memory
//
// Keys are kept in pages that are locked (never swapped), excluded from core dumps, wiped in forked
// children, and erased by Erase. There is no finalizer: the code that creates a key must erase it.
// Copies of key material in the standard library (a key schedule, the inner subkey of one extent)
// are overwritten after use. There are two exceptions, which this package cannot reach: the copies
// of a passphrase and its KEK in the derivation function, and the expanded form of a recovery key.
// They remain until the garbage collector reuses the memory. Both occur once, when a volume is
// opened with such a key. [HardenProcess] disables core dumps and ptrace for the process.
//
// Nothing in this package formats a key. Every type that holds one prints as "[key]" and refuses to
// be marshalled.
//
// # Errors
//
// If something does not open, the error is [ErrAuthentication], without a reason: a reason could be
// an oracle for an attacker. [ErrWrongKey] is a separate error only for key slots, because people
// mistype passphrases.
package crypto
