// Command libdoublecrypt is a C library. It provides the 21 functions of doublecrypt-core 0.1.18,
// declared in doublecrypt.h, on top of this project's implementation. `make libdoublecrypt` builds
// it as a shared and a static library.
//
// A handle is a number, not the address of an object. So invalid handles, destroyed handles and
// null pointers are detected and refused. Calls with the same handle may be concurrent.
package main
