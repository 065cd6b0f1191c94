// Package probe tells what a device holds before it is formatted: nothing, something of others by
// its mark (signature.go), something nobody knows, or what a Format left that was cut off.
//
// It reads and owns nothing. Of Format it knows only the places that it writes to. Format comes in,
// and who asks before it whether a device is blank.
package probe
