// Package lock keeps what a snapshot needs under an object lock. A pack is locked when it is stored,
// for the time that the store's URL gives. A later snapshot of the same volume needs the pack for
// longer. So its writer extends the locks of all packs and pages of its list before it commits: a
// snapshot counts as whole only when nobody can delete a part of it.
//
// The package has no keys. It knows nothing of stores but chunkstore.Locker.
package lock
