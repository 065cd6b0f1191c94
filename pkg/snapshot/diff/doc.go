// Package diff compares two stored snapshots, as the diff of local snapshots does
// (pkg/volume/internal/diff): it reports the same changes, in the same words. It reads only nodes of
// the maps that differ, and what it takes to find paths. Of content it reads nothing: chunks are
// compared by what identifies them.
//
// Both snapshots are of one tenant, and of one volume or of volumes restored from it: inodes are
// compared by their numbers. Ranges of files are whole chunks.
package diff
