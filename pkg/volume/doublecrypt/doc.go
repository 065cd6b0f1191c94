// Package doublecrypt implements format v1, the on-disk format of doublecrypt-core 0.1.18. Both
// implementations can read and write the same volumes. [Volume] implements vfs.FS. [Core] provides
// the reference implementation's operations by path, with its errors and codes.
//
// # The format
//
// A device is an array of equal blocks, each of them a frame: its payload's length
// (u32, little-endian), the payload, random bytes to the end.
//
//	block 0      header        magic "DBLCRYPT", version 1, block size, total blocks   plain
//	blocks 1, 2  root slots    generation, superblock's block, BLAKE3 of it            plain
//	blocks 3…    objects       kind, version 1, nonce[12], sealed bytes                ChaCha20-Poly1305
//
//	root slot ─ superblock ─ root inode ─ directory page ─┬─ inode ─ directory page …
//	                                                      └─ inode ─ extent map ─ data, data, …
//
// Everything is serialised with postcard (postcard.go, layout.go). One page holds a whole
// directory, and one map a whole file, which limits the size of both. Sealed blocks are not bound
// to their place: an attacker who can write to the device can swap blocks and replay old ones. The
// device contains no list of free blocks, so Open walks the tree.
//
// # Commits
//
// The invariants are those of docs/design.md.
//
//   - I1: a block that one of the two newest durable roots refers to is never written.
//   - I2: objects, barrier, root slot, barrier. Only then, callers are told that the commit is
//     durable.
//   - I3: a block that a commit drops stays in quarantine until the next commit has overwritten the
//     slot of the older root. If the older root is intact, Open puts blocks that only it refers to
//     into quarantine. If space runs out, the newest root is written into both slots.
//   - I4: Open uses the newest root whose superblock and root inode verify, or else the other one,
//     and reports it. The next generation is higher than any in the slots.
//
// Changes are made in memory, and the blocks that they need are reserved (Volume.need counts the
// blocks of the next commit). So a commit never runs out of space. There is a reserve for removals.
// A commit writes all changes at once. If it fails, the volume becomes read-only, and unwritten
// data stays readable.
//
// # Who owns what
//
// Volume.mu guards everything in memory and is never held during I/O. A reader pins the present
// epoch: blocks that are freed meanwhile are reused only when it has finished. All inodes and names
// are in memory. Options.Memory limits extent maps and data. A file's write lock orders its
// writers.
//
// Lock order: node.write, commitMu, mu.
package doublecrypt
