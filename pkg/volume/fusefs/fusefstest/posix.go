package fusefstest

import (
	"maps"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// RunPOSIX runs go-fuse's POSIX suite and Sealvol's own cases, each on a mount of a
// new file system.
func RunPOSIX(t *testing.T, newFS func(t *testing.T) vfs.FS) {
	RunPOSIXWith(t, Options{}, newFS)
}

// RunPOSIXWith does the same on mounts with these options.
func RunPOSIXWith(t *testing.T, o Options, newFS func(t *testing.T) vfs.FS) {
	t.Run("posixtest", func(t *testing.T) {
		for _, name := range slices.Sorted(maps.Keys(posixtest.All)) {
			if name == "FcntlFlockLocksFile" {
				// It expects two F_SETLK locks of one process to conflict, which POSIX
				// rules out; go-fuse leaves it out of its own run as well. The locks
				// case below tests what it is after.
				continue
			}
			t.Run(name, func(t *testing.T) {
				posixtest.All[name](t, Mount(t, newFS(t), o).Dir)
			})
		}
	})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(t, Mount(t, newFS(t), o).Dir) })
	}
}
