// Package probe finds out what a device holds before it is formatted: nothing, a known format,
// found by its signature (signature.go), unknown data, or the remains of an interrupted Format.
//
// It reads and owns nothing. Of Format it knows only the places that it writes. Its users are
// Format, and callers that ask first whether a device is blank.
package probe
