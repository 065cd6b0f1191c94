package vfstest

import (
	"slices"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Run tests all promises of vfs.FS. newFS returns an empty file system, and a function that closes
// it and opens it again. Each case gets its own file system. After Sync and reopening, all changes
// of a case must be present, including times and inode numbers.
func Run(t *testing.T, newFS func(t *testing.T) (fs vfs.FS, reopen func() vfs.FS)) {
	var all []string
	for _, c := range cases {
		all = append(all, c.name)
	}
	RunOnly(t, newFS, all...)
}

// RunOnly runs some cases of Run, for a format that does not support all features.
func RunOnly(t *testing.T, newFS func(t *testing.T) (fs vfs.FS, reopen func() vfs.FS), names ...string) {
	known := 0
	for _, c := range cases {
		if !slices.Contains(names, c.name) {
			continue
		}
		known++
		t.Run(c.name, func(t *testing.T) {
			fs, reopen := newFS(t)
			f := &fixture{T: t, fs: fs}
			c.run(f)
			f.noErr(f.fs.Sync(vfs.RootIno))
			before := f.snapshot()
			f.fs = reopen()
			if d := diff(f.snapshot(), before); d != "" {
				t.Errorf("after reopening: %s", d)
			}
			if c.then != nil {
				c.then(f)
			}
		})
	}
	if known != len(names) {
		t.Errorf("%d of the cases %v are unknown", len(names)-known, names)
	}
}

var cases = []struct {
	name string
	run  func(*fixture)
	then func(*fixture) // after reopening
}{
	{"empty", emptyFS, emptyFS},
	{"create", create, nil},
	{"names", names, nil},
	{"inoNeverReused", inoNeverReused, nil},
	{"umaskAndOwner", umaskAndOwner, nil},
	{"setgidDirectory", setgidDirectory, nil},
	{"unlink", unlink, nil},
	{"orphan", orphan, orphanThen},
	{"rmdir", rmdir, nil},
	{"link", link, nil},
	{"tmpfile", tmpfile, nil},
	{"symlink", symlink, nil},
	{"specialFiles", specialFiles, nil},
	{"rename", rename, nil},
	{"renameReplace", renameReplace, nil},
	{"renameDirectory", renameDirectory, nil},
	{"renameFlags", renameFlags, nil},
	{"readDir", readDir, nil},
	{"readDirPlus", readDirPlus, nil},
	{"readDirWhileChanging", readDirWhileChanging, nil},
	{"readWrite", readWrite, nil},
	{"writeRandom", writeRandom, nil},
	{"sizes", sizes, nil},
	{"truncate", truncate, nil},
	{"sparse", sparse, nil},
	{"fallocate", fallocate, nil},
	{"copyRange", copyRange, nil},
	{"wrongType", wrongType, nil},
	{"stale", stale, nil},
	{"setAttr", setAttr, nil},
	{"kill", kill, nil},
	{"times", timesRules, nil},
	{"xattr", xattr, nil},
	{"acl", acl, nil},
	{"aclInherit", aclInherit, nil},
	{"statfs", statfs, nil},
	{"concurrent", concurrent, nil},
}
