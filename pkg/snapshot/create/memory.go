package create

import "github.com/sealvol/sealvol/pkg/selfenc"

// MemoryLimit is the limit for the program of a job (debug.SetMemoryLimit), with which it stays below
// 128 MiB: garbage goes before it counts.
const MemoryLimit = 112 << 20

// The memory of a job; doc.go has the sum.
const (
	// inFlightBytes are those of packs that are being uploaded.
	inFlightBytes = 32 << 20
	// sealBytes decides how many batches of content are sealed at once.
	sealBytes = 40 << 20
	// nodeCacheBytes are those of the maps of files, mapCacheBytes those of the map.
	nodeCacheBytes = 6 << 20
	mapCacheBytes  = 6 << 20
	// dedupChunks are remembered, of 88 bytes each.
	dedupChunks = 64 << 10
	// queueFacts is how many facts may wait for the map. Most are short, the longest have 64 KiB.
	queueFacts = 128
)

// inFlight is how many packs are uploaded at once.
func (o *Options) inFlight() int {
	if o.InFlight > 0 {
		return o.InFlight
	}
	return max(1, inFlightBytes/o.Format.PackBytes)
}

// sealing are the options of the sealer.
func (o *Options) sealing() selfenc.PackedOptions {
	return selfenc.PackedOptions{ChunkBytes: o.Format.ChunkBytes, Workers: o.Workers, MemoryBytes: sealBytes, DedupChunks: dedupChunks, NodeCacheBytes: nodeCacheBytes}
}
