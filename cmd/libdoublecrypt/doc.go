// Command libdoublecrypt is a library for C: the 21 functions of
// doublecrypt-core 0.1.18, declared in doublecrypt.h, on this project's
// implementation. `make libdoublecrypt` builds it, shared and static.
//
// A handle is a number, not an address: what is no handle, or none any more, is
// refused, and so are null pointers. Calls with one handle may be concurrent.
package main
