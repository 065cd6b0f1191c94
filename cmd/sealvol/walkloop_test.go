package main

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// loopFS has two directories, each in the other one.
type loopFS struct{ vfs.FS }

func (loopFS) ReadDir(dir vfs.Ino, cookie uint64, _ bool, fn func(vfs.Dirent, *vfs.Attr) bool) error {
	if cookie == 0 {
		next := 3 - dir
		fn(vfs.Dirent{Name: "x", Ino: next, Cookie: 1}, &vfs.Attr{Ino: next, Mode: unix.S_IFDIR})
	}
	return nil
}

// TestWalkLoop walks directories that whoever has the key has made to lie below
// themselves.
func TestWalkLoop(t *testing.T) {
	w := &walker{fs: loopFS{}}
	seen := 0
	err := w.walk(&entry{path: "/", attr: vfs.Attr{Ino: 1, Mode: unix.S_IFDIR}}, func(*entry) error { seen++; return nil })
	if !errors.Is(err, errInside) || !errors.Is(err, vfs.ErrCorrupt) || seen != 3 || len(w.way) != 0 {
		t.Errorf("%d seen, %v", seen, err)
	}
}
