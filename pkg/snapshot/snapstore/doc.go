// Package snapstore opens a snapshot store: its description, the tenant secret, the list of
// snapshots, their keys and manifests. Readers and writers of snapshots begin here; what they read
// and write inside of one snapshot is none of its business.
//
// A [Store] is a chunk store with a store.json. A [Tenant] is an unlocked tenant secret, from a
// file or from the key slots that the store holds (tenant/FINGERPRINT/keys-N). A [Snapshot] is what
// the store's listing and the card say of one snapshot, in one of the states of [State].
//
// The store is not trusted. What it returns is compared with what was asked for, and each kind of
// fraud or damage has an error of its own: see errors.go. One thing no reader can notice: that all
// objects of a snapshot are those of an earlier time. docs/snapshot-format.md is normative.
//
// # Who owns what
//
// Secrets are in locked memory of pkg/crypto. Whoever gets a Tenant or a key erases it. A Store
// keeps nothing but the description; all methods are safe for concurrent use.
package snapstore
