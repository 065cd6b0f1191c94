// Package chunkstore stores objects by key: in memory, in a directory, or in S3. [Chunks] keeps
// chunks in any of these stores, under the hash of their bytes.
//
// All stores have the same semantics, which chunkstoretest tests. An object exists either
// completely or not at all, even after a crash. Put never replaces an object. When Put, Replace or
// Delete returns nil, the change is durable. Several processes may use a store at once.
package chunkstore
