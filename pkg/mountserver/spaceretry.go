package mountserver

import (
	"errors"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// spaceRetry retries a change that fails with ENOSPC once, while no other change runs. It is for
// raw block volumes, whose volume is always large enough for whatever is written to its only file
// (mounter.RawBytes). The engine refuses a write when three commits in a row have not found space
// for it; with many concurrent writers, the others may each time have taken the space that a commit
// freed. Alone, a write can use all the space that a commit frees. Without the retry, the ENOSPC
// would be an I/O error of the block device. For file systems, whose users expect ENOSPC, the retry
// would be harmful: on a full volume, each failing write would block all writers.
type spaceRetry struct {
	vfs.FS

	changes sync.RWMutex // shared: a change; exclusive: a retry
}

// Unwrap implements vfs.Wrapper.
func (r *spaceRetry) Unwrap() vfs.FS { return r.FS }

// retry calls change, and once more alone if there was no space.
func (r *spaceRetry) retry(change func() error) error {
	r.changes.RLock()
	err := change()
	r.changes.RUnlock()
	if !errors.Is(err, vfs.ErrNoSpace) {
		return err
	}
	r.changes.Lock()
	defer r.changes.Unlock()
	return change()
}

// Write implements vfs.FS.
func (r *spaceRetry) Write(req *vfs.Req, ino vfs.Ino, off uint64, data []byte, kill bool) (n int, err error) {
	err = r.retry(func() error {
		n, err = r.FS.Write(req, ino, off, data, kill)
		return err
	})
	return n, err
}

// Fallocate implements vfs.FS for discards and writes of zeros. Zeros become a hole: the volume is
// large enough, so nothing needs to be reserved.
func (r *spaceRetry) Fallocate(req *vfs.Req, ino vfs.Ino, mode uint32, off, length uint64) error {
	if mode == vfs.FallocZeroRange|vfs.FallocKeepSize {
		mode = vfs.FallocPunchHole | vfs.FallocKeepSize
	}
	return r.retry(func() error { return r.FS.Fallocate(req, ino, mode, off, length) })
}

// SetAttr implements vfs.FS for growing the file.
func (r *spaceRetry) SetAttr(req *vfs.Req, ino vfs.Ino, set *vfs.SetAttr) (a vfs.Attr, err error) {
	err = r.retry(func() error {
		a, err = r.FS.SetAttr(req, ino, set)
		return err
	})
	return a, err
}
