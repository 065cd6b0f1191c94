// Package format has the formats of a snapshot store that need no key: where
// objects lie, packs as E sees them, pages of pack lists, the clear head of a
// manifest, leases, tombs, records of condemned objects, store.json.
// docs/snapshot-format.md is normative.
//
// Every decoder is strict: it takes exactly what the encoder writes, so that
// encoding what was decoded gives the same bytes. No length that was read is
// believed before it was compared with what is there. Errors are [ErrFormat].
//
// The package holds no key and imports none: pkg/snapshot/gc, which has no keys
// either, is built on it. The SHA-256 that it computes names objects.
package format
