// Package chunkstore keeps objects by key: in memory, in a directory, in S3.
// [Chunks] keeps chunks in any of them, under the hash of their bytes.
//
// All stores behave alike, which chunkstoretest proves of each: an object is
// there whole or not at all, also after a crash; Put never replaces; whoever got
// nil from Put, Replace or Delete can rely on it; several processes may use one
// store at once.
package chunkstore
