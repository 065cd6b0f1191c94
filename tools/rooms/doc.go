// Command rooms measures the coupling within a package: the number of fields and methods of a type,
// and the size of the largest strongly connected component of files, in which each file needs each
// other one directly or indirectly.
//
//	go run -C tools/rooms . -type Volume ../../pkg/volume
//
// File a needs file b if it names something that b declares: a symbol of the package, a method or a
// field. Test files do not count.
//
// With -edges a.go it lists what a.go names in other files, and which files name what a.go
// declares.
package main
