// Package selfenc turns data into encrypted chunks and a map that finds and
// opens them. docs/selfenc-format.md is the normative description of the
// encodings:
//
//   - V2, this project's own: a tenant secret, keys bound to the very bytes that
//     are sealed, zstd, maps that are trees. It is for snapshots.
//   - SE31 and SE36, those of the reference implementation: to exchange data with
//     it. They are convergent: whoever can guess a file can tell that it is stored.
//
// A [ChunkStore] keeps the chunks. It is not trusted: a chunk's name is the
// hash of its bytes, verified before anything is decrypted, and its plaintext
// is verified after.
//
// # Who owns what
//
// [pipeline] owns every goroutine: none outlives the call that started it. A
// chunk's memory belongs to the job that holds it. [Reader] keeps the last few
// chunks, under its mutex, which is never held while anything is read.
//
// Memory is bounded by [Options].MemoryBytes, whatever the data's size; maps of
// the reference encodings are lists, and take 80 bytes a chunk beside it.
package selfenc
