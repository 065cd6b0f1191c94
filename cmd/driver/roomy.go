package main

import (
	"errors"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// roomy is the file system of a raw block volume, which has by its size room for whatever is written to its one file
// (mounter.RawBytes). The engine refuses a write when three commits in a row have not found room for it; with many writers at once,
// the others may have taken each time what a commit gave back. Such a write is tried again alone: then a commit's room is its own.
// An ENOSPC would be an I/O error of the device.
type roomy struct {
	vfs.FS
	others sync.RWMutex // held alone by who tries again
}

// room calls change, and once more alone if there was no room.
func (r *roomy) room(change func() error) error {
	r.others.RLock()
	err := change()
	r.others.RUnlock()
	if !errors.Is(err, vfs.ErrNoSpace) {
		return err
	}
	r.others.Lock()
	defer r.others.Unlock()
	return change()
}

// Write implements vfs.FS.
func (r *roomy) Write(req *vfs.Req, ino vfs.Ino, off uint64, data []byte, kill bool) (n int, err error) {
	err = r.room(func() error {
		n, err = r.FS.Write(req, ino, off, data, kill)
		return err
	})
	return n, err
}

// Fallocate implements vfs.FS: discards and writes of zeros. Zeros are a hole: nothing is reserved of what has room by its size.
func (r *roomy) Fallocate(req *vfs.Req, ino vfs.Ino, mode uint32, off, length uint64) error {
	if mode == vfs.FallocZeroRange|vfs.FallocKeepSize {
		mode = vfs.FallocPunchHole | vfs.FallocKeepSize
	}
	return r.room(func() error { return r.FS.Fallocate(req, ino, mode, off, length) })
}

// SetAttr implements vfs.FS: growing.
func (r *roomy) SetAttr(req *vfs.Req, ino vfs.Ino, set *vfs.SetAttr) (a vfs.Attr, err error) {
	err = r.room(func() error {
		a, err = r.FS.SetAttr(req, ino, set)
		return err
	})
	return a, err
}
