// Package header finds what can be trusted on a device: the two copies of the header and their key
// slots, the newest root slot, and anchors, which show whether that root follows from a known one.
//
// It reads and judges. It writes nothing and owns no state. Package layout encodes headers and
// roots, and txn verifies roots. pkg/volume owns the header of an open volume, which changes with
// its keys.
//
// Its users are the engine, when it opens a volume, and check, which works without the engine.
package header
