// Package local has the rules for the local snapshots of a volume that stored snapshots are made of:
// how they are called, which of them is the base of the next stored snapshot, when an interrupted one
// goes on, and when they are deleted. It is for programs that store snapshots on their own, such as
// the command line.
//
// # Names
//
// The local snapshot of stored snapshot S in a store is called
//
//	ses-S-STORE
//
// with both identities as 32 hexadecimal digits. So several stores can hold snapshots of one volume,
// and none of them takes another's local snapshot for its own. "ses-S" alone belongs to the snapshot
// worker of a cluster, whose caller knows the store (pkg/mounter/workerctl): it may serve as a base,
// and this package never deletes it.
//
// # Rules
//
//  1. The newest local snapshot whose stored snapshot is whole is the base of the next one: only what
//     changed since is read. It is deleted when the next one is whole.
//  2. Without one, the newest whole stored snapshot of the volume is the base: everything is read,
//     and what the base has is not stored again.
//  3. A newer local snapshot whose stored snapshot is unfinished, and was begun (the store has a
//     lease on it), is resumed: with the same state, the same base and what was stored before.
//  4. After a failure, the local snapshot stays if rule 3 would resume it, or if nobody can say.
//     Otherwise it is deleted.
//  5. All other local snapshots of the store are of no use any more and are deleted.
//
// One process at a time works on a volume and a store: see Lock. Local snapshots that a user deletes
// are no error: the next stored snapshot reads more.
package local
