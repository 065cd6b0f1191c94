// Package layout turns the structures of a format v2 volume into bytes and
// back. It is pure: it does no I/O and holds no state. docs/format.md is the
// normative description.
//
// The fixed places of a device, in bytes; growing a device moves nothing:
//
//	0         header, copy A (64 KiB)
//	1 MiB     header, copy B (64 KiB)
//
// The decoders take bytes that an attacker may have written: they check every
// length and every reserved byte before they use anything, never panic, and
// allocate no more than a constant.
package layout
