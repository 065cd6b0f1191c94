package fusefstest

import (
	"testing"

	"golang.org/x/sys/unix"
)

// reserve checks that space reserved by fallocate behaves as on ext4: it counts as used, and is a
// hole until it is written.
func reserve(t *testing.T, dir string) {
	const length = 4 << 20
	var before, after unix.Statfs_t
	must(t, unix.Statfs(dir, &before))
	fd := open(t, dir+"/f", unix.O_RDWR|unix.O_CREAT)
	must(t, unix.Fallocate(fd, 0, 0, length))
	must(t, unix.Statfs(dir, &after))
	if n := (before.Bavail - after.Bavail) * uint64(after.Bsize); n < length {
		t.Errorf("%d bytes fewer are available, %d are reserved", n, length)
	}
	blocks := func(what string, want int64) {
		t.Helper()
		var st unix.Stat_t
		must(t, unix.Fstat(fd, &st))
		if st.Blocks != want/512 {
			t.Errorf("%s: %d blocks, want %d", what, st.Blocks, want/512)
		}
	}
	blocks("reserved", length)
	_, err := unix.Seek(fd, 0, unix.SEEK_DATA)
	wantErr(t, "data in what is reserved", err, unix.ENXIO)
	_, err = unix.Pwrite(fd, pattern(4096, 3), 1<<20)
	must(t, err)
	must(t, unix.Fsync(fd))
	blocks("written in part", length)
	if at, err := unix.Seek(fd, 0, unix.SEEK_DATA); err != nil || at != 1<<20 {
		t.Errorf("data from %d on, %v", at, err)
	}
	want := make([]byte, length)
	copy(want[1<<20:], pattern(4096, 3))
	content(t, dir+"/f", want)
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, length, length))
	blocks("beyond the end", 2*length)
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 1<<20))
	blocks("a hole", 2*length-1<<20)
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, 0, 2<<20))
	blocks("zeros", 2*length)
	must(t, unix.Ftruncate(fd, length))
	blocks("cut", length)
	must(t, unix.Ftruncate(fd, 0))
	blocks("empty", 0)
}
