package csi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
)

// budget is a context that ends after it was asked a number of times.
type budget struct {
	context.Context
	left, asked int
}

func (b *budget) Err() error {
	if b.asked++; b.left <= 0 {
		return context.DeadlineExceeded
	}
	b.left--
	return nil
}

func openPath(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func forGroup(gid int) *csi.VolumeCapability {
	return &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{VolumeMountGroup: fmt.Sprint(gid)}}}
}

// A tree that is too large for one call is finished by the next ones. They resume where the walk
// stopped, even if that entry is gone.
func TestGroupGoesOn(t *testing.T) {
	root := t.TempDir()
	var files []string
	for i := range 5 {
		for j := range 5 {
			dir := filepath.Join(root, fmt.Sprint("d", i), fmt.Sprint("e", j))
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for k := range 4 {
				f := filepath.Join(dir, fmt.Sprint("f", k))
				if err := os.WriteFile(f, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				files = append(files, f)
			}
		}
	}
	dir, total := openPath(t, root), 0
	var g groupWalks
	err := errors.New("not begun")
	for calls := 0; err != nil; calls++ {
		ctx := &budget{Context: t.Context(), left: 7}
		err = g.apply(ctx, "v", dir, forGroup(2000), false)
		total += ctx.asked
		if err != nil && !errors.Is(err, context.DeadlineExceeded) || calls > 100 {
			t.Fatal(calls, err)
		}
		if calls == 3 { // where it stopped
			gone := filepath.Join(append([]string{root}, g.cut["v"].path...)...)
			files = deleteFile(t, files, gone)
		}
	}
	if len(g.cut) != 0 {
		t.Error("remembered:", g.cut)
	}
	if total > 400 {
		t.Errorf("asked %d times for 130 entries", total)
	}
	for _, f := range append(files, root, filepath.Join(root, "d0"), filepath.Join(root, "d4", "e4")) {
		var st unix.Stat_t
		if err := unix.Lstat(f, &st); err != nil || !hasGroup(&st, 2000) {
			t.Errorf("%s: group %d, mode %o: %v", f, st.Gid, st.Mode, err)
		}
	}
}

// deleteFile removes a path, and the files below it from the list.
func deleteFile(t *testing.T, files []string, path string) (left []string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if _, err := os.Lstat(f); err == nil {
			left = append(left, f)
		}
	}
	return left
}

// A walk for another group or another mount starts at the beginning.
func TestGroupCutOfAnother(t *testing.T) {
	var g groupWalks
	cut := cutWalk{gid: 1, dev: 2, path: []string{"x"}}
	for _, c := range []struct {
		gid  int
		dev  uint64
		want int
	}{{1, 2, 1}, {3, 2, 0}, {1, 3, 0}} {
		g.keep("v", cut)
		if got := g.take("v", c.gid, c.dev); len(got) != c.want {
			t.Errorf("group %d, device %d: %v", c.gid, c.dev, got)
		}
	}
	g.keep("v", cut)
	g.forget("v")
	if got := g.take("v", 1, 2); got != nil {
		t.Error(got)
	}
}

// The walk follows nested directories as long as it has descriptors.
func TestGroupDepth(t *testing.T) {
	root := t.TempDir()
	at, err := os.OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	for range maxGroupDepth + 2 {
		if err := at.Mkdir("d", 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := at.OpenRoot("d")
		if err := errors.Join(err, at.Close()); err != nil {
			t.Fatal(err)
		}
		at = next
	}
	if err := at.Close(); err != nil {
		t.Fatal(err)
	}
	var g groupWalks
	if err := g.apply(t.Context(), "v", openPath(t, root), forGroup(2000), false); !errors.Is(err, errPrecondition) {
		t.Error(err)
	}
}
