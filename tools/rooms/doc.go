// Command rooms measures how a package hangs together: how many fields and
// methods a type of it has, and how large the largest set of files is of which
// each needs, directly or by way of others, each other one.
//
//	go run -C tools/rooms . -type Volume ../../pkg/volume
//
// File a needs file b if it names something that b declares: a symbol of the
// package, a method or a field. Test files do not count.
//
// With -edges a.go it lists what a.go names in other files, and who names what
// a.go declares.
package main
