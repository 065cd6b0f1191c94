package mountserver

import (
	"errors"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// spaceRetry retries changes that fail with ENOSPC once, while no other change is under way. It
// serves raw block volumes, whose volume has by its size room for whatever is written to its one
// file (mounter.RawBytes). The engine refuses a write when three commits in a row have not found
// room for it; with many writers at once, the others may each time have taken what a commit gave
// back. Alone, a write has a commit's room to itself. Without the retry, the ENOSPC would be an I/O
// error of the block device. A file system, whose users expect ENOSPC, has no use for it: a full
// volume would hold up all writers for each write that fails.
type spaceRetry struct {
	vfs.FS

	changes sync.RWMutex // shared: a change; exclusive: a retry
}

// Unwrap implements vfs.Wrapper.
func (r *spaceRetry) Unwrap() vfs.FS { return r.FS }

// retry calls change, and once more alone if there was no room.
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

// Fallocate implements vfs.FS: discards and writes of zeros. Zeros become a hole: nothing is
// reserved in a volume that has room by its size.
func (r *spaceRetry) Fallocate(req *vfs.Req, ino vfs.Ino, mode uint32, off, length uint64) error {
	if mode == vfs.FallocZeroRange|vfs.FallocKeepSize {
		mode = vfs.FallocPunchHole | vfs.FallocKeepSize
	}
	return r.retry(func() error { return r.FS.Fallocate(req, ino, mode, off, length) })
}

// SetAttr implements vfs.FS: growing.
func (r *spaceRetry) SetAttr(req *vfs.Req, ino vfs.Ino, set *vfs.SetAttr) (a vfs.Attr, err error) {
	err = r.retry(func() error {
		a, err = r.FS.SetAttr(req, ino, set)
		return err
	})
	return a, err
}
