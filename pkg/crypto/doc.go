// Package crypto is the cryptography of volume format v2 and of snapshots. It
// is the only package that touches a cipher, a hash or a key derivation.
// docs/format.md is the normative description; testdata/vectors.json fixes it.
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
// The VMKs lie in key slots ([Slot]): a [Recipient] makes one, the matching
// [Credential] opens it. [TenantKeys] and [SnapshotKeys] are the same for
// chunks and manifests in a chunk store.
//
// # Secrets in memory
//
// Keys of any lifetime lie in pages that are locked (never swapped), left out
// of core dumps, wiped in forked children and erased by Erase; there is no
// finalizer, so whoever makes a key erases it. What the standard library keeps
// beside them (a key schedule, the inner subkey of one extent) is overwritten
// after use. Two exceptions cannot be reached from here, and last until the
// garbage collector reuses the memory: copies of a passphrase and of its KEK
// that the derivation function makes, and the expanded form of a recovery key.
// Both occur once, when a volume is opened by them. [HardenProcess] takes core dumps and ptrace away from the process.
//
// Nothing in this package formats a key: every type that holds one prints as
// "[key]" and refuses to be marshalled.
//
// # Errors
//
// Whatever does not open gives [ErrAuthentication], with no reason attached: a
// reason would be an oracle, and would mean nothing. [ErrWrongKey] is told
// apart only for key slots, where people type passphrases.
package crypto
