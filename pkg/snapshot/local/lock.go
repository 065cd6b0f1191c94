package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// ErrBusy means that another process stores a snapshot of the volume in the same store.
var ErrBusy = errors.New("another process is storing a snapshot of this volume in this store")

// Lock makes this process the only one of this machine that stores snapshots of a volume in a store,
// until unlock. dir is a directory for files that nobody needs after a restart. Processes on other
// machines cannot have the volume.
func Lock(dir string, volume crypto.UUID, store format.ID) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("ses-%s-%s.lock", volume, store)), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrBusy
		}
		return nil, &os.PathError{Op: "flock", Path: f.Name(), Err: err}
	}
	return func() { f.Close() }, nil
}
