// Package reading opens a stored snapshot to be read: it holds a lease on it, so that no pruner
// deletes it meanwhile, unlocks its key, checks its manifest, and returns what reads it
// (pkg/snapshot/stored).
package reading
