// Package draw is where identities get their random bytes, so that a model test
// can repeat a run.
package draw

import "crypto/rand"

// Bytes fills b. Only tests replace it, before anything runs.
var Bytes = func(b []byte) { rand.Read(b) }
