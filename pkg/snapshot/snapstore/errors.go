package snapstore

import (
	"errors"

	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
)

// Errors of this package; compare with errors.Is.
var (
	// ErrNoStore: the place holds no store.json.
	ErrNoStore = errors.New("not a snapshot store")
	// ErrNewer: a newer version of the program made the store.
	ErrNewer = format.ErrNewer
	// ErrOtherStore: the handle names another store.
	ErrOtherStore = errors.New("the handle is of another store")
	// ErrNotFound: no snapshot matches.
	ErrNotFound = errors.New("no such snapshot")
	// ErrAmbiguous: several snapshots match.
	ErrAmbiguous = errors.New("several snapshots match")
	// ErrUnfinished: the snapshot is being written, or its writer died.
	ErrUnfinished = errors.New("the snapshot is unfinished")
	// ErrForgotten: the snapshot was forgotten; it can be undeleted.
	ErrForgotten = errors.New("the snapshot was forgotten")
	// ErrVoid: the snapshot was never finished, or was forgotten and its time to be undeleted is over.
	ErrVoid = errors.New("the snapshot is void")
	// ErrLost: the snapshot is whole by its card, but the store has lost another part of it.
	ErrLost = errors.New("the store has lost a part of the snapshot")
	// ErrExchanged: parts of different snapshots were put together, or the handle names another
	// manifest.
	ErrExchanged = manifest.ErrExchanged
	// ErrTenant: the card does not open with the tenant secret.
	ErrTenant = manifest.ErrTenant
	// ErrWrongTenant: nothing in the store opens with the tenant secret.
	ErrWrongTenant = errors.New("no snapshot in this store opens with this tenant secret")
	// ErrNoTenant: the store holds no tenant secret that a key could open.
	ErrNoTenant = errors.New("the store holds no copy of a tenant secret")
	// ErrSeveralTenants: the key opens the tenant secrets of several tenants.
	ErrSeveralTenants = errors.New("the key opens several tenant secrets")
	// ErrNoSlot: the key opens no key slot.
	ErrNoSlot = manifest.ErrNoSlot
	// ErrNoKeys: there are no key slots.
	ErrNoKeys = errors.New("the snapshot has no key slots")
	// ErrKey: the snapshot's key does not open its manifest.
	ErrKey = manifest.ErrKey
	// ErrTooLate: the snapshot was forgotten, and its time to be undeleted is over.
	ErrTooLate = commit.ErrTooLate
	// ErrLastSlot: nothing would open the key any more.
	ErrLastSlot = errors.New("it is the last key slot")
	// ErrNoSuchSlot: the key slot is not in use.
	ErrNoSuchSlot = errors.New("no such key slot")
)
