// Package local stores volumes as sparse image files in a directory of one node.
//
//	DIR/lock            locked (flock) by the only process that may change anything
//	DIR/volumes/H.json  one record per volume, H = first 16 bytes of SHA-256(name), hexadecimal
//	DIR/images/ID.img   the image
//	DIR/formats/ID.json whether a volume was formatted on the image (formats.go); written by the node half, also with Options.NodeOnly
//
// A volume id is "lv-" H "-" R, where R is 8 random bytes. So the record is found from the name and
// from the id without a search. The id of a deleted volume is never reused, so a late retry of a
// Delete cannot delete a successor with the same name. Ids are validated before they become file
// names, and every file is opened relative to its directory without following links.
//
// # Crashes
//
// A record is replaced by writing a temporary file, fsync, rename, and fsync of the directory. It
// is always written before the change that it announces:
//
//	create   record "creating" → image (create, truncate, fsync, fsync dir) → record "ready"
//	expand   record with the new size → truncate image → fsync
//	delete   record "deleting" → unlink image, fsync dir → unlink formats/ID.json, fsync dir → unlink record, fsync dir
//
// Open finishes what a crash interrupted. "creating" was never acknowledged, so it is removed.
// "deleting" is completed. An image that is shorter than its record says is grown. An image without
// a record can only be created by hand; it is never touched.
//
// # Memory
//
// The owner has one sorted index of ids, the promised bytes and the number of attached volumes in
// memory. Open builds it with one scan of the directory. Records are read from their files when
// needed.
//
// # Locks
//
// mu guards the index and all changes. Operations under mu are short (they move no data).
package local
