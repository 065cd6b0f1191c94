// Package handover carries keys between the processes of a stored snapshot. Keys go through pipes
// and sockets of the kernel, whose memory is never swapped out, from locked memory into locked
// memory; buffers in between do not exist.
//
//	caller       ── Secrets ──► worker     through a pipe, which the mounter passes on unread
//	mount server ── Volume  ──► worker     through a socket pair, which the mounter makes
//
// Both are lists of records, and both end with an empty record of kind 0:
//
//	kind u8 ‖ 00 ‖ length u16 ‖ epoch u32 ‖ bytes
//
// On the socket pair, a record of kind 6 follows five times a second: how busy the volume is. The mount
// server reads nothing from the pair: a worker cannot send it anything. When the worker's end is
// closed, the worker no longer reads the device.
package handover
