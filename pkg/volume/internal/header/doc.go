// Package header is the way from a device to what can be trusted of it: the two copies of the
// header and the key slots in them, the newest of the root slots, and anchors, which tell whether
// that root is one that somebody has seen before.
//
// It reads and judges, and writes nothing; it owns no state. How a header or a root is encoded is
// layout's, which root verifies is txn's. The header of an open volume, which changes with its keys,
// is owned by pkg/volume.
//
// The engine comes in to open a volume, and check, which does so without the engine.
package header
