// Package forgetest forges structures as an attacker with the volume's key could. Poly1305 is not a
// collision-resistant hash, so the holder of the key can find a ciphertext for any tag. Tests use
// the package to create structures that contain their own tags, which would be impossible in a
// Merkle tree of hashes. It supports only suite 1. Only tests use it.
package forgetest
