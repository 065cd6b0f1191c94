// Package doublecrypt is format v1: the on-disk format of doublecrypt-core 0.1.18,
// readable and writable by both. [Volume] implements vfs.FS; [Core] has the
// reference's operations by path, with its errors and codes.
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
// Everything is serialised by postcard (postcard.go, layout.go). One page holds a
// whole directory and one map a whole file, which bounds both. Nothing binds a
// sealed block to its place: whoever writes to the device can swap blocks and replay old
// ones. Nothing on the device says which blocks are free: Open walks the tree.
//
// # Commits
//
// The numbers are those of docs/design.md: they hold here as well.
//
//   - I1: a block that one of the two newest durable roots reaches is never written.
//   - I2: objects, barrier, root slot, barrier; only then is anyone told.
//   - I3: a block dropped by a commit waits in quarantine until the next one has
//     overwritten the older root's slot; Open puts there what only the older root
//     reaches, if that is whole. When space runs out, the newest root is written into both slots.
//   - I4: Open takes the newest root whose superblock and root inode verify, else the
//     other, and says so; the next generation exceeds any seen.
//
// Changes are made in memory, where room for them is set aside (Volume.need counts what
// the next commit takes), so that a commit never finds the device full, and removals have a
// reserve. A commit takes all of them at once. If it fails the volume is read-only;
// what was not written stays readable.
//
// # Who owns what
//
// Volume.mu guards everything in memory and is never held across I/O. A reader pins
// the present epoch: blocks that are freed meanwhile are reused only when it has
// finished. Inodes and names are all in memory; extent maps and data are bounded
// by Options.Memory. A file's write lock orders its writers.
//
// Lock order: node.write, commitMu, mu.
package doublecrypt
