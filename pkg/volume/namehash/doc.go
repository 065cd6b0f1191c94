// Package namehash computes where names and extended attributes of a volume are among its facts
// (pkg/volume/logical): the sub of a fact begins with a hash of the name, whose key is a secret of
// the volume. Readers of stored snapshots look up names with it. It owns no state.
package namehash
