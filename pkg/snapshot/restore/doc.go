// Package restore builds a volume from a stored snapshot.
//
// First all facts in the order of their keys (inodes, names, attributes, small content), then the
// content of larger files, window by window in the order in which it lies in packs
// (pkg/snapshot/fetch). After each step the target can make durable how far it came; a restore that
// died goes on there. The target refuses to be used before Finish.
package restore
