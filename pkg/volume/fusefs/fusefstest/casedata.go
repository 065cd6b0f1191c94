package fusefstest

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func appendConcurrently(t *testing.T, dir string) {
	const writers, lines = 8, 200
	var wg sync.WaitGroup
	for w := range writers {
		fd := open(t, dir+"/log", unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND)
		wg.Go(func() {
			for i := range lines {
				line := fmt.Sprintf("writer %d line %04d %s\n", w, i, strings.Repeat("x", i%50))
				if n, err := unix.Write(fd, []byte(line)); err != nil || n != len(line) {
					t.Errorf("append: %d, %v", n, err)
				}
			}
		})
	}
	wg.Wait()
	b, err := os.ReadFile(dir + "/log")
	must(t, err)
	seen := make(map[string]bool)
	for line := range strings.Lines(string(b)) {
		var w, i int
		if _, err := fmt.Sscanf(line, "writer %d line %d", &w, &i); err != nil {
			t.Fatalf("torn line %q", line)
		}
		seen[fmt.Sprint(w, " ", i)] = true
	}
	if len(seen) != writers*lines {
		t.Errorf("%d of %d lines", len(seen), writers*lines)
	}
}

func truncateOnOpen(t *testing.T, dir string) {
	must(t, os.WriteFile(dir+"/f", pattern(100000, 3), 0o644))
	must(t, os.WriteFile(dir+"/f", []byte("short"), 0o644)) // O_TRUNC
	content(t, dir+"/f", []byte("short"))
	if st := stat(t, dir+"/f"); st.Size != 5 {
		t.Errorf("size %d", st.Size)
	}
	fd := open(t, dir+"/f", unix.O_RDONLY|unix.O_TRUNC)
	_ = fd
	content(t, dir+"/f", nil)
}

func sparse(t *testing.T, dir string) {
	fd := open(t, dir+"/f", unix.O_RDWR|unix.O_CREAT)
	const at = 10 << 20
	data := pattern(64<<10, 6)
	_, err := unix.Pwrite(fd, data, at)
	must(t, err)
	must(t, unix.Ftruncate(fd, 30<<20))
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	if st.Size != 30<<20 || st.Blocks*512 >= 10<<20 {
		t.Errorf("size %d, blocks %d", st.Size, st.Blocks)
	}
	off, err := unix.Seek(fd, 0, unix.SEEK_DATA)
	if err != nil || off > at || off < at-64<<10 {
		t.Errorf("data at %d, %v", off, err)
	}
	if off, err = unix.Seek(fd, at, unix.SEEK_HOLE); err != nil || off < at+int64(len(data)) || off > at+128<<10 {
		t.Errorf("hole at %d, %v", off, err)
	}
	_, err = unix.Seek(fd, 20<<20, unix.SEEK_DATA)
	wantErr(t, "data beyond", err, unix.ENXIO)
	_, err = unix.Seek(fd, 30<<20, unix.SEEK_HOLE)
	wantErr(t, "hole beyond the end", err, unix.ENXIO)
	want := make([]byte, 30<<20)
	copy(want[at:], data)
	content(t, dir+"/f", want)
	must(t, unix.Ftruncate(fd, at+100))
	must(t, unix.Ftruncate(fd, at+200)) // truncated data must not reappear
	clear(want[at+100:])
	content(t, dir+"/f", want[:at+200])
}

func fallocateModes(t *testing.T, dir string) {
	f := dir + "/f"
	want := pattern(100000, 7)
	must(t, os.WriteFile(f, want, 0o644))
	fd := open(t, f, unix.O_RDWR)
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 5000, 50000))
	clear(want[5000:55000])
	content(t, f, want)
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 60000, 1000))
	clear(want[60000:61000])
	content(t, f, want)
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 90000, 20000))
	want = append(want[:90000], make([]byte, 20000)...)
	content(t, f, want)
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 110000, 100000))
	content(t, f, want)
	must(t, unix.Fallocate(fd, 0, 100000, 50000))
	content(t, f, append(want, make([]byte, 40000)...))
	wantErr(t, "collapse", unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 0, 4096), unix.EOPNOTSUPP)
	wantErr(t, "nothing", unix.Fallocate(fd, 0, 0, 0), unix.EINVAL)
}

func copyRange(t *testing.T, dir string) {
	want := pattern(300000, 8)
	must(t, os.WriteFile(dir+"/a", want, 0o644))
	a, b := open(t, dir+"/a", unix.O_RDWR), open(t, dir+"/b", unix.O_RDWR|unix.O_CREAT)
	from, to := int64(1000), int64(50)
	n, err := unix.CopyFileRange(a, &from, b, &to, 200000, 0)
	if err != nil || n != 200000 {
		t.Fatalf("copied %d, %v", n, err)
	}
	content(t, dir+"/b", append(make([]byte, 50), want[1000:201000]...))
	from, to = 0, 100
	_, err = unix.CopyFileRange(a, &from, a, &to, 1000, 0)
	wantErr(t, "overlap", err, unix.EINVAL)
	from, to = 0, 200000
	if n, err := unix.CopyFileRange(a, &from, a, &to, 100000, 0); err != nil || n != 100000 {
		t.Fatalf("within: %d, %v", n, err)
	}
	copy(want[200000:], want[:100000])
	content(t, dir+"/a", want)
	from = 300000
	if n, err := unix.CopyFileRange(a, &from, b, nil, 1000, 0); n != 0 || err != nil {
		t.Errorf("at the end: %d, %v", n, err)
	}
}

func unlinkedOpen(t *testing.T, dir string) {
	fd := open(t, dir+"/f", unix.O_RDWR|unix.O_CREAT)
	must(t, os.Remove(dir+"/f"))
	data := pattern(500000, 9)
	_, err := unix.Pwrite(fd, data, 0)
	must(t, err)
	must(t, unix.Fsync(fd))
	got := make([]byte, len(data))
	n, err := unix.Pread(fd, got, 0)
	if err != nil || !bytes.Equal(got[:n], data) {
		t.Errorf("read %d, %v", n, err)
	}
	must(t, unix.Fchmod(fd, 0o600))
	must(t, unix.Ftruncate(fd, 10))
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	if st.Nlink != 0 || st.Size != 10 || st.Mode&0o777 != 0o600 {
		t.Errorf("nlink %d, size %d, mode %o", st.Nlink, st.Size, st.Mode)
	}
	// The same for a directory.
	must(t, os.Mkdir(dir+"/d", 0o755))
	d := open(t, dir+"/d", unix.O_RDONLY|unix.O_DIRECTORY)
	must(t, os.Remove(dir+"/d"))
	must(t, unix.Fstat(d, &st))
	wantErr(t, "create in a removed directory", unix.Mknodat(d, "x", unix.S_IFREG|0o644, 0), unix.ENOENT)
}

func parallelFsync(t *testing.T, dir string) {
	var wg sync.WaitGroup
	for i := range 48 { // more than handlers
		fd := open(t, fmt.Sprintf("%s/f%d", dir, i), unix.O_RDWR|unix.O_CREAT)
		wg.Go(func() {
			for j := range 20 {
				if _, err := unix.Pwrite(fd, pattern(5000, j), int64(j*5000)); err != nil {
					t.Error(err)
				}
				if err := unix.Fsync(fd); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	d := open(t, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	must(t, unix.Fsync(d))
}
