// Package view reads a stored snapshot as a file system: vfs.Reader over the map of a snapshot.
// Nothing is read before it is needed, and nothing is returned that does not verify.
//
// Look-ups use the hash seed of the volume that the snapshot was made of, and directories have its
// cookies. Attributes are those of the volume; space in use is computed from the content, since the
// snapshot does not know where blocks were.
//
// A View owns the caches of the map, of file maps and of what was read last. It is safe for
// concurrent use. Its calls end with the context given to New.
package view
