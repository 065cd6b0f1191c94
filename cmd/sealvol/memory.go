package main

import (
	"os"
	"runtime/debug"
)

const (
	// loaderMemory is that of the volume that a restore makes.
	loaderMemory = 64 << 20
	// restoreMemory is that of a restore: the volume, 8 ranges of 4 MiB that are read at once, with
	// what they contain, and a window of chunks.
	restoreMemory = loaderMemory + 96<<20
)

// limitMemory makes the garbage collector keep the process below a limit if it can, unless the user
// has given one, until end is called.
func limitMemory(bytes int64) (end func()) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	before := debug.SetMemoryLimit(bytes)
	return func() { debug.SetMemoryLimit(before) }
}
