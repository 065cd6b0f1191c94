package copyout_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/copyout"
	"github.com/sealvol/sealvol/pkg/volume/vfs/vfstest"
)

var req = &vfs.Req{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}

// node creates an inode in a directory.
func node(t *testing.T, fs vfs.FS, dir vfs.Ino, name string, mode uint32, data string) vfs.Ino {
	t.Helper()
	a, err := fs.Mknod(req, dir, name, mode, 0)
	if err == nil && data != "" {
		_, err = fs.Write(req, a.Ino, 0, []byte(data), false)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a.Ino
}

// TestCopy copies a tree with all kinds of entries, and skips those that would be dangerous.
func TestCopy(t *testing.T) {
	fs := vfstest.NewMemFS()
	d, err := fs.Mkdir(req, vfs.RootIno, "dir", 0o750)
	if err != nil {
		t.Fatal(err)
	}
	node(t, fs, d.Ino, "set", unix.S_IFREG|0o6755, "text")
	holes := node(t, fs, d.Ino, "holes", unix.S_IFREG|0o600, "begin")
	if _, err := fs.Write(req, holes, 1<<20, []byte("end"), false); err != nil {
		t.Fatal(err)
	}
	node(t, fs, d.Ino, "pipe", unix.S_IFIFO|0o640, "")
	node(t, fs, d.Ino, "disk", unix.S_IFBLK|0o600, "")
	if _, err := fs.Symlink(req, d.Ino, "link", "/etc/passwd"); err != nil {
		t.Fatal(err)
	}
	dest := t.TempDir()
	var failed []string
	o := copyout.Options{Failed: func(path string, err error) { failed = append(failed, path+": "+err.Error()) }}
	if _, err := copyout.Copy(fs, []string{"/dir"}, dest, o); !errors.Is(err, copyout.ErrIncomplete) || !strings.Contains(err.Error(), "1 entries") {
		t.Error(err)
	}
	if !slices.Equal(failed, []string{"/dir/disk: device nodes are not copied"}) {
		t.Error(failed)
	}
	for name, want := range map[string]os.FileMode{"": os.ModeDir | 0o750, "set": 0o755, "holes": 0o600, "pipe": os.ModeNamedPipe | 0o640} {
		if fi, err := os.Lstat(filepath.Join(dest, "dir", name)); err != nil || fi.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", name, fi.Mode(), err, want)
		}
	}
	if to, err := os.Readlink(filepath.Join(dest, "dir/link")); err != nil || to != "/etc/passwd" {
		t.Error(to, err)
	}
	want := append([]byte("begin"), make([]byte, 1<<20-5)...)
	if b, err := os.ReadFile(filepath.Join(dest, "dir/holes")); err != nil || !bytes.Equal(b, append(want, "end"...)) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	// A second copy overwrites nothing.
	failed = nil
	if _, err := copyout.Copy(fs, []string{"/dir/set"}, filepath.Join(dest, "dir"), o); !errors.Is(err, copyout.ErrIncomplete) || len(failed) != 1 {
		t.Error(err, failed)
	}
	for dest, want := range map[string]error{"/dev/null": copyout.ErrExists, filepath.Join(dest, "new"): copyout.ErrNoDirectory} {
		if _, err := copyout.Copy(fs, []string{"/dir", "/dir/set"}, dest, o); !errors.Is(err, want) {
			t.Errorf("to %s: %v", dest, err)
		}
	}
}

// hostileFS has names that lead out of the destination.
type hostileFS struct {
	*vfstest.MemFS
	name string
}

func (f hostileFS) ReadDir(dir vfs.Ino, cookie uint64, plus bool, fn func(vfs.Dirent, *vfs.Attr) bool) error {
	return f.MemFS.ReadDir(dir, cookie, plus, func(d vfs.Dirent, a *vfs.Attr) bool {
		d.Name = f.name
		return fn(d, a)
	})
}

// TestHostileNames checks that no name in the volume leads out of the destination.
func TestHostileNames(t *testing.T) {
	for _, name := range []string{"..", ".", "", "../escaped", "/escaped", "a\x00b"} {
		fs := hostileFS{vfstest.NewMemFS(), name}
		node(t, fs, vfs.RootIno, "file", unix.S_IFREG|0o600, "text")
		outside := t.TempDir()
		dest := filepath.Join(outside, "dest")
		if err := os.Mkdir(dest, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := copyout.Copy(fs, []string{"/"}, dest, copyout.Options{}); !errors.Is(err, vfs.ErrCorrupt) {
			t.Errorf("%q: %v", name, err)
		}
		for dir, want := range map[string]int{outside: 1, dest: 0} {
			if left, err := os.ReadDir(dir); err != nil || len(left) != want {
				t.Errorf("%q: %v in %s, %v", name, left, dir, err)
			}
		}
	}
}
