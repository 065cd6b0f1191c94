package copyout_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/copyout"
	"github.com/sealvol/sealvol/pkg/volume/vfs/vfstest"
)

// window is a Fetcher that collects some files, and then gives parts of them in another order,
// concurrently.
type window struct {
	fs     vfs.Reader
	inos   []vfs.Ino
	broken vfs.Ino // cannot be read
	full   bool    // the destination is
}

// Add implements copyout.Fetcher.
func (w *window) Add(ino vfs.Ino, s copyout.Sink) error {
	if w.inos = append(w.inos, ino); len(w.inos) < 3 {
		return nil
	}
	return w.Flush(s)
}

// Flush implements copyout.Fetcher.
func (w *window) Flush(s copyout.Sink) error {
	slices.Reverse(w.inos)
	if w.full {
		return unix.ENOSPC
	}
	errs := make(chan error, 2*len(w.inos))
	var all sync.WaitGroup
	for _, ino := range w.inos {
		if ino == w.broken {
			s.Failed(ino, errors.New("lost"))
			continue
		}
		b := make([]byte, 4<<20)
		n, err := w.fs.Read(ino, 0, b)
		if err != nil {
			return err
		}
		for _, part := range [][2]int{{n / 2, n}, {0, n / 2}} {
			all.Go(func() { errs <- s.Write(ino, b[part[0]:part[1]], uint64(part[0])) })
		}
	}
	all.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	w.inos = nil
	return nil
}

// tree makes files of all kinds.
func tree(t *testing.T) *vfstest.MemFS {
	t.Helper()
	fs := vfstest.NewMemFS()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	d, err := fs.Mkdir(req, vfs.RootIno, "dir", 0o750)
	ok(err)
	sub, err := fs.Mkdir(req, d.Ino, "sub", 0o710)
	ok(err)
	set := node(t, fs, d.Ino, "set", unix.S_IFREG|0o6755, "text")
	big := node(t, fs, d.Ino, "big", unix.S_IFREG|0o600, strings.Repeat("0123456789abcdef", 20000))
	_, err = fs.Write(req, big, 1<<20, []byte("end"), false)
	ok(err)
	for _, to := range []struct {
		ino, dir vfs.Ino
		name     string
	}{{set, sub.Ino, "set2"}, {set, vfs.RootIno, "zset3"}, {big, sub.Ino, "big2"}} {
		_, err = fs.Link(req, to.ino, to.dir, to.name)
		ok(err)
	}
	node(t, fs, d.Ino, "empty", unix.S_IFREG|0o600, "")
	node(t, fs, d.Ino, "pipe", unix.S_IFIFO|0o640, "")
	node(t, fs, d.Ino, "sock", unix.S_IFSOCK|0o640, "")
	link, err := fs.Symlink(req, d.Ino, "link", "/etc/passwd")
	ok(err)
	_, err = fs.Link(req, link.Ino, sub.Ino, "link2")
	ok(err)
	ok(fs.SetXattr(req, set, "user.x", []byte("yes"), 0))
	ok(fs.SetXattr(req, d.Ino, "user.d", []byte("dir"), 0))
	return fs
}

// checkTree checks what tree has made.
func checkTree(t *testing.T, dest string, privileged bool) {
	t.Helper()
	stat := func(name string) (st unix.Stat_t) {
		t.Helper()
		if err := unix.Lstat(filepath.Join(dest, name), &st); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return st
	}
	mode := uint32(0o755)
	if privileged {
		mode = 0o6755
	}
	for name, want := range map[string]uint32{"dir": 0o750 | unix.S_IFDIR, "dir/sub": 0o710 | unix.S_IFDIR, "dir/set": mode | unix.S_IFREG, "dir/big": 0o600 | unix.S_IFREG,
		"dir/pipe": 0o640 | unix.S_IFIFO, "dir/sock": 0o640 | unix.S_IFSOCK, "dir/empty": 0o600 | unix.S_IFREG} {
		if st := stat(name); st.Mode != want {
			t.Errorf("%s: mode %o, want %o", name, st.Mode, want)
		}
	}
	for _, names := range [][]string{{"dir/set", "dir/sub/set2", "zset3"}, {"dir/big", "dir/sub/big2"}, {"dir/link", "dir/sub/link2"}} {
		first := stat(names[0])
		for _, n := range names {
			if st := stat(n); st.Ino != first.Ino || int(st.Nlink) != len(names) {
				t.Errorf("%s is inode %d with %d links, %s is inode %d", n, st.Ino, st.Nlink, names[0], first.Ino)
			}
		}
	}
	if st := stat("dir/big"); st.Size != 1<<20+3 || st.Blocks*512 > 1<<19 {
		t.Errorf("big has %d bytes in %d blocks", st.Size, st.Blocks)
	}
	b, err := os.ReadFile(filepath.Join(dest, "dir/sub/big2"))
	if err != nil || !bytes.HasPrefix(b, []byte("0123456789abcdef0")) || !bytes.HasSuffix(b, []byte("\x00end")) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	x := make([]byte, 10)
	for name, want := range map[string]string{"dir/set": "yes", "dir": "dir"} {
		attr := map[string]string{"yes": "user.x", "dir": "user.d"}[want]
		if n, err := unix.Getxattr(filepath.Join(dest, name), attr, x); err != nil || string(x[:n]) != want {
			t.Errorf("%s of %s: %q, %v", attr, name, x[:max(n, 0)], err)
		}
	}
}

func names(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("find", dir, "-name", ".sealvol*").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestAll copies everything, with and without a Fetcher, and repeats it on what is there, from which
// parts are missing.
func TestAll(t *testing.T) {
	fs := tree(t)
	for _, fetch := range []bool{false, true} {
		dest := t.TempDir()
		for _, missing := range []string{"", "dir/sub", "dir/set", "zset3", "dir/big", "dir/link"} {
			if missing != "" {
				if err := os.RemoveAll(filepath.Join(dest, missing)); err != nil {
					t.Fatal(err)
				}
			}
			o := copyout.Options{All: true, Privileged: true, Failed: func(path string, err error) { t.Errorf("without %q: %s: %v", missing, path, err) }}
			if fetch {
				o.Fetch = &window{fs: fs}
			}
			if _, err := copyout.Copy(fs, []string{"/"}, dest, o); err != nil {
				t.Error(err)
			}
			checkTree(t, dest, true)
		}
		if left := names(t, dest); left != "" {
			t.Errorf("left behind: %s", left)
		}
	}
}

// TestAllUnprivileged: privileges are left out, and counted.
func TestAllUnprivileged(t *testing.T) {
	dest := t.TempDir()
	r, err := copyout.Copy(tree(t), []string{"/"}, dest, copyout.Options{All: true})
	if err != nil || r.Stripped != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	checkTree(t, dest, false)
}

// TestAllExists: what is there and differs stays as it is.
func TestAllExists(t *testing.T) {
	fs := tree(t)
	dest := t.TempDir()
	if err := os.Mkdir(filepath.Join(dest, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"dir/big": "other", "dir/link": "no link", "dir/pipe": "no pipe", "zset3": "other"} {
		if err := os.WriteFile(filepath.Join(dest, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var failed []string
	o := copyout.Options{All: true, Fetch: &window{fs: fs}, Failed: func(path string, _ error) { failed = append(failed, path) }}
	if _, err := copyout.Copy(fs, []string{"/"}, dest, o); !errors.Is(err, copyout.ErrIncomplete) {
		t.Error(err)
	}
	slices.Sort(failed)
	if want := []string{"/dir/big", "/dir/link", "/dir/pipe", "/dir/sub/big2", "/dir/sub/link2", "/zset3"}; !slices.Equal(failed, want) {
		t.Error(failed)
	}
	if b, err := os.ReadFile(filepath.Join(dest, "dir/big")); err != nil || string(b) != "other" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestFetchFails: a file that cannot be fetched has no name, nor have its links; others are there. A
// destination that is full, or an interruption, ends the copy.
func TestFetchFails(t *testing.T) {
	fs := tree(t)
	dir, err := fs.Lookup(vfs.RootIno, "dir")
	if err != nil {
		t.Fatal(err)
	}
	big, err := fs.Lookup(dir.Ino, "big")
	if err != nil {
		t.Fatal(err)
	}
	dest := t.TempDir()
	var failed []string
	o := copyout.Options{All: true, Fetch: &window{fs: fs, broken: big.Ino}, Failed: func(path string, _ error) { failed = append(failed, path) }}
	if _, err := copyout.Copy(fs, []string{"/"}, dest, o); !errors.Is(err, copyout.ErrIncomplete) {
		t.Error(err)
	}
	slices.Sort(failed)
	if want := []string{"/dir/big", "/dir/sub/big2"}; !slices.Equal(failed, want) {
		t.Error(failed)
	}
	if _, err := os.Lstat(filepath.Join(dest, "dir/big")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(dest, "dir/sub/set2")); err != nil {
		t.Error(err)
	}
	if _, err := copyout.Copy(fs, []string{"/"}, t.TempDir(), copyout.Options{All: true, Fetch: &window{fs: fs, full: true}}); !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	why := errors.New("enough")
	n := 0
	o = copyout.Options{All: true, Fetch: &window{fs: fs}, Interrupted: func() error {
		if n++; n > 4 {
			return why
		}
		return nil
	}}
	if _, err := copyout.Copy(fs, []string{"/"}, t.TempDir(), o); !errors.Is(err, why) {
		t.Error(err)
	}
}

// A file that is present without its attributes is not whole, however often the copy is repeated.
func TestPresentDiffers(t *testing.T) {
	fs, dest := tree(t), t.TempDir()
	failed := map[string]bool{}
	o := copyout.Options{All: true, Failed: func(_ string, err error) { failed[strings.SplitN(err.Error(), ":", 2)[0]] = true }}
	if _, err := copyout.Copy(fs, []string{"/"}, dest, o); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Removexattr(filepath.Join(dest, "dir/set"), "user.x"), os.Chmod(filepath.Join(dest, "dir/big"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		clear(failed)
		r, err := copyout.Copy(fs, []string{"/"}, dest, o)
		if !errors.Is(err, copyout.ErrIncomplete) || len(failed) != 2 || !failed["attribute user.x"] || !failed["mode"] || r.Present == 0 {
			t.Errorf("%+v, %v, %v", r, err, failed)
		}
	}
}

// ext4 keeps few attributes, and says that the disk is full. The other files are copied.
func TestAttributeRefused(t *testing.T) {
	fs := tree(t)
	dir, err := fs.Lookup(vfs.RootIno, "dir")
	if err != nil {
		t.Fatal(err)
	}
	set, err := fs.Lookup(dir.Ino, "set")
	if err != nil {
		t.Fatal(err)
	}
	for _, ino := range []vfs.Ino{set.Ino, dir.Ino} {
		if err := fs.SetXattr(req, ino, "user.large", bytes.Repeat([]byte("x"), 60000), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, fetch := range []bool{false, true} {
		dest := t.TempDir()
		o := copyout.Options{All: true, Privileged: true, Failed: func(path string, err error) {
			if path != "/dir" && path != "/dir/set" && path != "/dir/sub/set2" && path != "/zset3" || !strings.Contains(err.Error(), "user.large") {
				t.Errorf("%s: %v", path, err)
			}
		}}
		if fetch {
			o.Fetch = &window{fs: fs}
		}
		if _, err := copyout.Copy(fs, []string{"/"}, dest, o); err != nil && !errors.Is(err, copyout.ErrIncomplete) {
			t.Error(err)
		}
		checkTree(t, dest, true)
	}
}

// Whoever made a name cannot write to the terminal of whoever reads the error.
func TestErrorsArePrintable(t *testing.T) {
	fs := vfstest.NewMemFS()
	node(t, fs, vfs.RootIno, "\x1b[31mred", unix.S_IFREG|0o600, "text")
	var failed []error
	o := copyout.Options{All: true, Fetch: tooFar{}, Failed: func(_ string, err error) { failed = append(failed, err) }}
	if _, err := copyout.Copy(fs, []string{"/"}, t.TempDir(), o); !errors.Is(err, copyout.ErrIncomplete) || len(failed) != 1 || strings.Contains(failed[0].Error(), "\x1b") {
		t.Errorf("%v, %q", err, failed)
	}
}

// tooFar writes where no file system allows it.
type tooFar struct{}

func (tooFar) Add(ino vfs.Ino, s copyout.Sink) error { return s.Write(ino, []byte("x"), 1<<62) }
func (tooFar) Flush(copyout.Sink) error              { return nil }
