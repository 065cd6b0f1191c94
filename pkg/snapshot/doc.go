// Package snapshot holds the tests of a whole snapshot store; its parts are:
//
//	format    what needs no key: names, packs, pack lists, heads, leases, records
//	manifest  what needs keys: manifest bodies, cards, key slots
//	pack      puts sealed chunks into packs, finds them by way of the pack list
//	merkle    the map of a snapshot: values by key, in nodes that follow from what is in them
//	fact      the values: inodes, names, attributes, content
//	commit    how a snapshot comes into a store: the writers' side of the protocol
//	gc        deletes what nothing needs: the pruners' side, without keys
//	lock      extends object locks of what a snapshot needs
//	retention decides which snapshots are forgotten
//	snapstore opens a store: tenant secret, lists of snapshots, keys, manifests
//
// docs/snapshot-format.md is normative. testdata/store-1 is a store that every
// later version has to read.
package snapshot
