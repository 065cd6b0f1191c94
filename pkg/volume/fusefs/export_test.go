package fusefs

import (
	"log/slog"
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// MountHelper mounts with fusermount3.
func MountHelper(dir string, o MountOptions) (*os.File, error) { return mountHelper(dir, o) }

// UnmountHelper unmounts with fusermount3.
func UnmountHelper(dir string) error { return unmountHelper(dir, false) }

// Status translates one error.
func Status(l *slog.Logger, err error) int32 {
	r := &raw{log: l}
	return int32(r.status("TEST", 1, err))
}

// StatusDamaged translates one error and reports damage.
func StatusDamaged(l *slog.Logger, err error, damaged func(vfs.Ino)) {
	r := &raw{log: l, damaged: damaged}
	r.status("TEST", 7, err)
}

// StatusMany translates err n times.
func StatusMany(l *slog.Logger, err error, n int) {
	r := &raw{log: l}
	for range n {
		r.status("TEST", 1, err)
	}
}

// GoFuse mounts fs with go-fuse's own loop, for comparison.
func GoFuse(fs vfs.FS, dir string) (*fuse.Server, error) {
	o := Options{FS: fs, Logger: slog.Default()}
	r := newRaw(o, nil)
	r.kernelFlags = fuse.CAP_NO_OPEN_SUPPORT | fuse.CAP_NO_OPENDIR_SUPPORT
	opts := protocolOptions(o)
	opts.DirectMountStrict = true
	opts.AllowOther = true
	opts.FsName = "sealvol"
	opts.Name = "sealvol"
	opts.DisableSplice = true // answers are slices in memory
	return fuse.NewServer(r, dir, opts)
}

// Refs exports the lookup counts to tests.
type Refs = refs

// NewRefs, Hold, Drop and Begin are refs' methods.
var (
	NewRefs = newRefs
	Hold    = (*refs).hold
	Drop    = (*refs).drop
	Begin   = (*refs).begin
)

// WhileBusy exports the retry loop of Unmount for a mount that is in use.
var WhileBusy = whileBusy
