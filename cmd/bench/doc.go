// Command bench compares a Sealvol volume with other file systems. It formats and mounts all of
// them on equal images, runs each job on all of them in turn, repeats that, and prints a table of
// ratios. docs/performance.md explains the table.
//
// The sealvol command serves our volume. For profiles, and for the file system in memory, this
// program is the server, in a separate process: see serve.go.
//
// `bench snapshots` compares stored snapshots with restic and borg instead: see snapshots.go.
package main
