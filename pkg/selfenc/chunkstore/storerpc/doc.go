// Package storerpc carries a chunk store over a connection: a process without a
// network uses the store of one that has it. Which part of the store, and what
// may be done with it, chunkstore.Limit says on the server's side.
//
// Neither side trusts the other. Frames are read only as far as they are asked
// for or allowed: a server holds [ServerOptions].MemoryBytes for all requests, a
// client what its callers wait for. Whatever is not of the protocol ends the
// connection with [ErrProtocol].
//
// # Frames
//
// Integers are little-endian. A request is
//
//	op u8 ‖ 00 ‖ key u16 ‖ second key u16 ‖ 00×2 ‖ id u64 ‖ offset u64 ‖ limit u32 ‖ body u32 ‖ keys ‖ body
//
// and its answer, in any order,
//
//	status u8 ‖ flags u8 ‖ 00×6 ‖ id u64 ‖ body u32 ‖ 00×4 ‖ body
//
// The body of an answer whose status is not 0 is a text. A request to cancel has
// the id of another, and no answer of its own.
//
// # Who owns what
//
// One goroutine reads a connection, for as long as it lasts. Writers hold a
// mutex for one frame. A client's caller owns its buffer again as soon as its
// call has returned: bodies are read into memory of the reader's.
package storerpc
