package posix

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/fusefs/fusefstest"
)

// reflinks is a mounted volume.
type reflinks struct {
	*testing.T
	dir string
}

func (r *reflinks) ok(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *reflinks) path(name string) string { return filepath.Join(r.dir, name) }

// used commits, and returns the used bytes that df shows.
func (r *reflinks) used() int64 {
	r.Helper()
	d, err := os.Open(r.dir)
	r.ok(err)
	defer d.Close()
	r.ok(d.Sync())
	var st unix.Statfs_t
	r.ok(unix.Statfs(r.dir, &st))
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

func (r *reflinks) content(name string, want []byte) {
	r.Helper()
	got, err := os.ReadFile(r.path(name))
	r.ok(err)
	if !bytes.Equal(got, want) {
		r.Errorf("%s: %d bytes, want %d, or the content differs", name, len(got), len(want))
	}
}

func (r *reflinks) blocks(name string) int64 {
	r.Helper()
	var st unix.Stat_t
	r.ok(unix.Stat(r.path(name), &st))
	return st.Blocks
}

func (r *reflinks) write(name string, off int64, data []byte) {
	r.Helper()
	f, err := os.OpenFile(r.path(name), os.O_WRONLY, 0)
	r.ok(err)
	_, err = f.WriteAt(data, off)
	r.ok(errors.Join(err, f.Close()))
}

func (r *reflinks) cp(args ...string) ([]byte, error) {
	cmd := exec.Command("cp", args...)
	cmd.Dir = r.dir
	return cmd.CombinedOutput()
}

// clone requests a reflink without a fallback.
func (r *reflinks) clone(from, to string) error {
	r.Helper()
	a, err := os.Open(r.path(from))
	r.ok(err)
	defer a.Close()
	b, err := os.Create(r.path(to))
	r.ok(err)
	defer b.Close()
	return unix.IoctlFileClone(int(b.Fd()), int(a.Fd()))
}

// What a file of TestReflinks has, and what may be used beside contents, in bytes.
const reflinkSize, reflinkSlack = 48<<20 + 12345, 2 << 20

// TestReflinks copies files with cp, which asks for copy_file_range, changes both
// sides, and looks at what is used.
func TestReflinks(t *testing.T) {
	m := fusefstest.Mount(t, newVolume(t), fusefstest.Options{})
	r := &reflinks{t, m.Dir}
	data := make([]byte, reflinkSize)
	rand.Read(data)
	empty := r.used()
	r.ok(os.WriteFile(r.path("a"), data, 0o644))
	one := r.used()
	if one < empty+reflinkSize || one > empty+reflinkSize+reflinkSlack {
		t.Errorf("a file of %d bytes takes %d", reflinkSize, one-empty)
	}
	for _, name := range []string{"b", "c"} {
		if out, err := r.cp("a", name); err != nil {
			t.Fatalf("cp: %v\n%s", err, out)
		}
	}
	if two := r.used(); two > one+reflinkSlack {
		t.Errorf("two copies take %d bytes", two-one)
	}
	for _, name := range []string{"b", "c"} {
		r.content(name, data)
		if a, b := r.blocks("a"), r.blocks(name); a != b || b < reflinkSize/512 {
			t.Errorf("%s has %d blocks, a %d", name, b, a)
		}
	}
	r.changeSides(data, empty, one)
	r.copyInside(data, one)

	// FUSE has no request for FICLONE, so the kernel answers it. If a later kernel passes it on, it
	// must work.
	cloned := r.clone("c", "d")
	if cloned != nil && !errors.Is(cloned, unix.EOPNOTSUPP) {
		t.Errorf("FICLONE: %v", cloned)
	}
	if out, err := r.cp("--reflink=always", "c", "e"); (err == nil) != (cloned == nil) {
		t.Errorf("cp --reflink=always: %v, and FICLONE gives %v\n%s", err, cloned, out)
	}
	for _, name := range []string{"b", "c", "d", "e"} {
		if err := os.Remove(r.path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
	// The files are freed behind the scenes. Should they not be, the mount's deadline
	// ends this.
	for r.used() > empty+reflinkSlack {
	}
}

func (r *reflinks) punch(name string, off, n int64, want []byte) {
	r.Helper()
	f, err := os.OpenFile(r.path(name), os.O_RDWR, 0)
	r.ok(err)
	defer f.Close()
	r.ok(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n))
	clear(want[off : off+n])
}

// changeSides changes a and b, which share data with c, and removes a. Empty is what was
// used before there were files, one with one of them.
func (r *reflinks) changeSides(data []byte, empty, one int64) {
	r.Helper()
	inB, inA := bytes.Clone(data), bytes.Clone(data)
	copy(inB[1<<20+100:], data[5<<20:8<<20])
	r.write("b", 1<<20+100, inB[1<<20+100:4<<20+100])
	copy(inA[20<<20:], data[:1<<20])
	r.write("a", 20<<20, inA[20<<20:21<<20])
	r.punch("a", 30<<20, 3<<20, inA)
	r.punch("b", 31<<20+5, 3<<20, inB)
	r.content("a", inA)
	r.content("b", inB)
	r.content("c", data)
	if now := r.used(); now > one+4<<20+reflinkSlack { // what was written; what was punched c still has
		r.Errorf("%d bytes more are used after %d were written", now-one, 4<<20)
	}
	r.ok(os.Remove(r.path("a")))
	r.content("b", inB)
	r.content("c", data)
	if now := r.used(); now < one {
		r.Errorf("%d bytes are used, c alone has %d", now-empty, reflinkSize)
	}
}

// copyInside calls copy_file_range inside one file.
func (r *reflinks) copyInside(data []byte, one int64) {
	r.Helper()
	f, err := os.OpenFile(r.path("c"), os.O_RDWR, 0)
	r.ok(err)
	from, to := int64(0), int64(64<<20)
	for from < 8<<20 {
		n, err := unix.CopyFileRange(int(f.Fd()), &from, int(f.Fd()), &to, int(8<<20-from), 0)
		if err != nil || n <= 0 {
			r.Fatal(n, err)
		}
	}
	r.ok(f.Close())
	r.content("c", append(append(bytes.Clone(data), make([]byte, 64<<20-reflinkSize)...), data[:8<<20]...))
	if now := r.used(); now > one+4<<20+reflinkSlack {
		r.Errorf("%d bytes more are used after a copy inside a file", now-one)
	}
}
