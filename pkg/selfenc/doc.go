// Package selfenc encrypts data into chunks, and a map that finds and decrypts them.
// docs/selfenc-format.md is the normative description of the encodings:
//
//   - V2, this project's own encoding: it uses a tenant secret, keys that are bound to the sealed
//     bytes, zstd, and maps that are trees.
//   - SE31 and SE36, the encodings of the reference implementation, to exchange data with it. They
//     are convergent: anybody who can guess a file can tell that it is stored.
//
// A [ChunkStore] keeps the chunks. It is not trusted. A chunk's name is the hash of its bytes,
// which is verified before decryption. The plaintext is verified after decryption.
//
// Snapshots use V2 with chunks that lie together in packs: [PackedSealer]. It can update an object
// in time that depends on what has changed. The normative description is in
// docs/snapshot-format.md, "Objects of files". The package does not know what a pack is: see
// [Packer] and [Unpacker].
//
// # Who owns what
//
// [pipeline] owns all goroutines. They end before the call that started them. The memory of a chunk
// belongs to its job. [Reader] keeps the last few chunks under its mutex, which is never held
// during I/O.
//
// A [PackedSealer] owns the memory of batches, the node cache and the cache of equal chunks. Its calls
// share them. An update has a place for a batch before it starts the batch's goroutine, and batches
// get places in the order in which they store their chunks, so the oldest one never waits for a
// younger one. No mutex is held during I/O, sealing or calls of the caller's code.
//
// [Options].MemoryBytes limits the memory, whatever the size of the data. Maps of the reference
// encodings are lists, which need additional 80 bytes per chunk.
package selfenc
