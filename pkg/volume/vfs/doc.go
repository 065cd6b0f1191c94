// Package vfs defines the file system interface between a volume format and its users. Format v2
// (pkg/volume) and format v1 (pkg/volume/doublecrypt) implement FS. fusefs and the command line use
// it.
//
// Operations take (parent Ino, name), never paths. An Ino is never reused in the lifetime of a
// volume. The caller (the kernel, with default_permissions) has already checked permissions. An FS
// checks only what the data model requires.
//
// An FS is safe for concurrent use. Every mutation is atomic. Mutations are ordered: a Sync makes
// all earlier mutations durable.
package vfs
