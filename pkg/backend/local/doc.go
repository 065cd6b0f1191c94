// Package local keeps volumes as sparse image files in a directory of one node.
//
//	DIR/lock            flock'ed by the one process that may change anything
//	DIR/volumes/H.json  one record per volume, H = first 16 bytes of SHA-256(name), hexadecimal
//	DIR/images/ID.img   the image
//	DIR/formats/ID.json whether a volume was made on the image (formats.go); the node half's, with Options.NodeOnly too
//
// A volume id is "lv-" H "-" R, R being 8 random bytes: the record is found from the name and from
// the id without any search, and the id of a deleted volume never returns, so that a late repetition of
// a Delete cannot hit a successor of the same name. Ids are validated before they become a file name and
// every file is opened relative to its directory without following links.
//
// # Crashes
//
// A record is replaced by write to a temporary name, fsync, rename, fsync of the directory. It is
// always written before what it announces:
//
//	create   record "creating" → image (create, truncate, fsync, fsync dir) → record "ready"
//	expand   record with the new size → truncate image → fsync
//	delete   record "deleting" → unlink image, fsync dir → unlink formats/ID.json, fsync dir → unlink record, fsync dir
//
// Open finishes what a crash left: "creating" was never acknowledged and is taken back, "deleting" is
// completed, an image shorter than its record is grown. An image without a record cannot arise, except
// by hands; it is never touched.
//
// # Memory
//
// The owner keeps one sorted index of ids, the promised bytes and the attached count, built by the one directory
// scan at Open; records are read from their files when needed.
//
// # Locks
//
// mu guards the index and all changes: operations are short (no data is moved).
package local
