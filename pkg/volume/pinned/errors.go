package pinned

import "errors"

// Errors of finding and reading snapshots.
var (
	ErrNoSnapshot  = errors.New("no such snapshot")
	ErrDeleted     = errors.New("the snapshot was deleted while it was read")
	ErrInvalidRef  = errors.New("invalid reference to a snapshot")
	ErrOtherVolume = errors.New("the device holds another volume")
)
