package posix

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/fusefs/fusefstest"
)

// TestReserve checks on a mount that posix_fallocate keeps its promise: writes to the file find
// space, even if the volume is full, and if the file is copied or in a snapshot.
func TestReserve(t *testing.T) {
	v := newSizedVolume(t, 96<<20).(*volume.Volume)
	m := fusefstest.Mount(t, v, fusefstest.Options{})
	reserveOn(t, v, m.Dir)
	m.Unmount()
}

// reserved is a file with a reserved range, on a mount.
type reserved struct {
	*testing.T
	dir        string
	fd, filler int
	count      byte // of overwrites
}

const reservedLength = 6 << 20

func (r *reserved) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *reserved) open(name string) int {
	r.Helper()
	fd, err := unix.Open(r.dir+"/"+name, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
	r.must(err)
	return fd
}

// fill takes all space that is left.
func (r *reserved) fill() {
	r.Helper()
	for n := 1 << 20; n >= 4096; n /= 16 {
		for {
			_, err := unix.Write(r.filler, make([]byte, n))
			if errors.Is(err, unix.ENOSPC) {
				break
			}
			r.must(err)
		}
	}
}

// overwrite writes the reserved range, again and again.
func (r *reserved) overwrite(what string) {
	r.Helper()
	for range 3 {
		r.count++
		want := bytes.Repeat([]byte{r.count}, reservedLength)
		for off := 0; off < reservedLength; off += 100_000 {
			if _, err := unix.Pwrite(r.fd, want[off:min(reservedLength, off+100_000)], int64(off)); err != nil {
				r.Fatalf("%s: write at %d: %v", what, off, err)
			}
		}
		if err := unix.Fsync(r.fd); err != nil {
			r.Fatalf("%s: fsync: %v", what, err)
		}
		got := make([]byte, reservedLength)
		if n, err := unix.Pread(r.fd, got, 0); err != nil || n != reservedLength || !bytes.Equal(got, want) {
			r.Fatalf("%s: another content, %v", what, err)
		}
	}
}

func reserveOn(t *testing.T, v *volume.Volume, dir string) {
	r := &reserved{T: t, dir: dir}
	r.fd = r.open("reserved")
	spare := r.open("spare")
	r.filler = r.open("filler")
	other := r.open("copy")
	defer func() {
		for _, fd := range []int{r.fd, r.filler, other} {
			unix.Close(fd)
		}
	}()
	r.must(unix.Fallocate(r.fd, 0, 0, reservedLength))
	r.must(unix.Fallocate(spare, 0, 0, 3*reservedLength))
	r.fill()
	r.overwrite("full")
	if _, err := v.CreateSnapshot("none"); err == nil {
		t.Fatal("a snapshot of what has no room twice")
	}
	r.must(unix.Close(spare))
	r.must(unix.Unlink(dir + "/spare"))
	spare = r.open("spare2")
	_, err := v.CreateSnapshot("s")
	r.must(err)
	r.must(unix.Fallocate(spare, 0, 0, reservedLength+reservedLength/2))
	r.fill()
	r.overwrite("with a snapshot")
	r.must(unix.Close(spare))
	r.must(unix.Unlink(dir + "/spare2"))
	if n, err := unix.CopyFileRange(r.fd, new(int64), other, new(int64), reservedLength, 0); err != nil || n != reservedLength {
		t.Fatal(n, err)
	}
	r.fill()
	r.overwrite("with a copy")
}
