// Package vfs is the small filesystem interface between a volume format and
// whatever serves it. Format v2 (pkg/volume) and format v1
// (pkg/volume/doublecrypt) implement FS; fusefs and the command line use it.
//
// Operations take (parent Ino, name), never paths. An Ino is never reused in
// the life of a volume. The caller (the kernel, by default_permissions) has
// checked permissions; an FS checks only what the data model needs.
//
// An FS is safe for concurrent use. Every mutation is atomic, and is ordered:
// what a later Sync makes durable includes every earlier mutation.
package vfs
