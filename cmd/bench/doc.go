// Command bench measures a sealed volume beside other file systems: it formats
// and mounts all of them on equal images, runs each job on one after the other,
// repeats that, and prints a table of ratios. docs/performance.md says how to read it.
//
// Our volume is served by the sealvol command. To profile it, and for the file
// system in memory, the same binary is the server, in a process of its own: serve.go.
package main
