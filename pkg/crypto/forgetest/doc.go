// Package forgetest is what somebody who holds a volume's key can do with
// Poly1305: it is no hash, so the holder of the key finds a ciphertext for any
// tag. Tests make structures with it that contain their own tags, which a Merkle
// tree of hashes would rule out. Suite 1 alone, and nothing but tests uses it.
package forgetest
