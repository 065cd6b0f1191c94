package posix

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/fusefs/fusefstest"
)

// TestReserve does on a mount what posix_fallocate is called for: the file has its room,
// whatever else fills the volume, is copied or snapshotted.
func TestReserve(t *testing.T) {
	v := newSizedVolume(t, 96<<20).(*volume.Volume)
	m := fusefstest.Mount(t, v, fusefstest.Options{})
	reserveOn(t, v, m.Dir)
	m.Unmount()
}

func reserveOn(t *testing.T, v *volume.Volume, dir string) {
	const length = 6 << 20
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	open := func(name string) int {
		t.Helper()
		fd, err := unix.Open(dir+"/"+name, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
		must(err)
		return fd
	}
	fd, spare, filler, other := open("reserved"), open("spare"), open("filler"), open("copy")
	defer func() {
		for _, fd := range []int{fd, filler, other} {
			unix.Close(fd)
		}
	}()
	must(unix.Fallocate(fd, 0, 0, length))
	must(unix.Fallocate(spare, 0, 0, 3*length))
	fill := func() {
		t.Helper()
		for n := 1 << 20; n >= 4096; n /= 16 {
			for {
				_, err := unix.Write(filler, make([]byte, n))
				if errors.Is(err, unix.ENOSPC) {
					break
				}
				must(err)
			}
		}
	}
	count := byte(0)
	overwrite := func(what string) {
		t.Helper()
		for range 3 {
			count++
			want := bytes.Repeat([]byte{count}, length)
			for off := 0; off < length; off += 100_000 {
				if _, err := unix.Pwrite(fd, want[off:min(length, off+100_000)], int64(off)); err != nil {
					t.Fatalf("%s: write at %d: %v", what, off, err)
				}
			}
			if err := unix.Fsync(fd); err != nil {
				t.Fatalf("%s: fsync: %v", what, err)
			}
			got := make([]byte, length)
			if n, err := unix.Pread(fd, got, 0); err != nil || n != length || !bytes.Equal(got, want) {
				t.Fatalf("%s: another content, %v", what, err)
			}
		}
	}
	fill()
	overwrite("full")
	if _, err := v.CreateSnapshot("none"); err == nil {
		t.Fatal("a snapshot of what has no room twice")
	}
	must(unix.Close(spare))
	must(unix.Unlink(dir + "/spare"))
	fd2 := open("spare2")
	_, err := v.CreateSnapshot("s")
	must(err)
	must(unix.Fallocate(fd2, 0, 0, length+length/2))
	fill()
	overwrite("with a snapshot")
	must(unix.Close(fd2))
	must(unix.Unlink(dir + "/spare2"))
	if n, err := unix.CopyFileRange(fd, new(int64), other, new(int64), length, 0); err != nil || n != length {
		t.Fatal(n, err)
	}
	fill()
	overwrite("with a copy")
}
