package fusefstest

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Mapper is a process that maps files of a mount. The test process must not map them, because it
// serves the mount, and its threads may wait while the kernel reads or writes back pages of a
// mapping.
type Mapper struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
	n   int // mappings
	end func()
}

// End ends the process and thus all its mappings.
func (m *Mapper) End() { m.end() }

// mapperProgram reads commands: map NAME PATH SIZE, store NAME OFFSET HEX, load NAME OFFSET LENGTH.
// It calls mmap(2) directly, because Python's mmap cannot map beyond the end of a file.
const mapperProgram = `
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
maps = {}
for line in sys.stdin:
    op, name, a, b = line.split()
    if op == "map":
        fd = os.open(a, os.O_RDWR | os.O_CREAT, 0o644)
        at = libc.mmap(None, int(b), mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
        if at == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap")
        maps[name] = at
        os.close(fd)
        print("ok", flush=True)
    elif op == "store":
        data = bytes.fromhex(b)
        ctypes.memmove(maps[name] + int(a), data, len(data))
        print("ok", flush=True)
    else:
        print(ctypes.string_at(maps[name] + int(a), int(b)).hex(), flush=True)
`

// NewMapper starts a Mapper, which ends with the test.
func NewMapper(t *testing.T) *Mapper {
	t.Helper()
	c := exec.Command("python3", "-c", mapperProgram)
	in, err := c.StdinPipe()
	must(t, err)
	out, err := c.StdoutPipe()
	must(t, err)
	c.Stderr = t.Output()
	must(t, c.Start())
	end := sync.OnceFunc(func() {
		must(t, in.Close())
		if err := c.Wait(); err != nil {
			t.Errorf("the process that maps files: %v", err)
		}
	})
	t.Cleanup(end)
	return &Mapper{t: t, in: in, out: bufio.NewReader(out), end: end}
}

func (m *Mapper) do(format string, args ...any) string {
	m.t.Helper()
	_, err := fmt.Fprintf(m.in, format+"\n", args...)
	must(m.t, err)
	line, err := m.out.ReadString('\n')
	must(m.t, err)
	return strings.TrimSuffix(line, "\n")
}

// Map maps the first size bytes of the file at path. Only the last page may extend beyond the end
// of the file.
func (m *Mapper) Map(path string, size int) *Mapping {
	m.t.Helper()
	m.n++
	m.do("map %d %s %d", m.n, path, size)
	return &Mapping{m, m.n}
}

// Mapping is a shared mapping of a file, which exists until the test ends.
type Mapping struct {
	m    *Mapper
	name int
}

// Store writes b at off.
func (p *Mapping) Store(off int, b []byte) {
	p.m.t.Helper()
	p.m.do("store %d %d %x", p.name, off, b)
}

// Load reads n bytes at off.
func (p *Mapping) Load(off, n int) []byte {
	p.m.t.Helper()
	b, err := hex.DecodeString(p.m.do("load %d %d %d", p.name, off, n))
	must(p.m.t, err)
	return b
}

// seek calls lseek, and returns -1 for ENXIO.
func seek(t *testing.T, fd int, off int64, whence int) int64 {
	t.Helper()
	n, err := unix.Seek(fd, off, whence)
	if errors.Is(err, unix.ENXIO) {
		return -1
	}
	must(t, err)
	return n
}

// mappedSeek checks that bytes stored in a hole through a mapping are data immediately, while the
// file is mapped.
func mappedSeek(t *testing.T, dir string) {
	const size = 1 << 20
	fd := open(t, filepath.Join(dir, "f"), unix.O_RDWR|unix.O_CREAT)
	must(t, unix.Ftruncate(fd, size))
	m := NewMapper(t).Map(filepath.Join(dir, "f"), size)
	if got := seek(t, fd, 0, unix.SEEK_DATA); got != -1 {
		t.Errorf("SEEK_DATA in a hole: %d", got)
	}
	m.Store(300<<10, pattern(100, 1)) // in the middle of the hole
	if st := stat(t, filepath.Join(dir, "f")); st.Blocks == 0 {
		t.Error("st_blocks is 0 although there is data")
	}
	data := seek(t, fd, 0, unix.SEEK_DATA)
	if data < 0 || data > 300<<10 {
		t.Fatalf("SEEK_DATA: %d, stored at %d", data, 300<<10)
	}
	if hole := seek(t, fd, 300<<10, unix.SEEK_HOLE); hole < 300<<10+100 {
		t.Errorf("SEEK_HOLE from the data: %d", hole)
	}
	if hole := seek(t, fd, 0, unix.SEEK_HOLE); hole > 300<<10 {
		t.Errorf("SEEK_HOLE: %d", hole)
	}
	// A hole directly after data, which is now filled.
	end := int(seek(t, fd, 300<<10, unix.SEEK_HOLE))
	m.Store(end, pattern(4096, 2))
	if hole := seek(t, fd, 300<<10, unix.SEEK_HOLE); hole < int64(end+4096) {
		t.Errorf("SEEK_HOLE over data that was stored at %d: %d", end, hole)
	}
	if got := seek(t, fd, size, unix.SEEK_DATA); got != -1 {
		t.Errorf("SEEK_DATA at the end: %d", got)
	}
	if got := m.Load(300<<10, 100); !bytes.Equal(got, pattern(100, 1)) {
		t.Error("the mapping lost what was stored")
	}
}

// mappedCopies checks that tools that skip holes copy data that was stored through a mapping.
func mappedCopies(t *testing.T, dir string) {
	const size = 64 << 10 // small, so that the kernel does not start to write back by itself
	other, mapper := t.TempDir(), NewMapper(t)
	want := bytes.Repeat([]byte("x"), size)
	for i, copyTo := range []string{
		"cp %s %s", "cp --reflink=never --sparse=auto %s %s", "cp --sparse=always %s %s", "dd if=%s of=%s bs=64k conv=sparse status=none",
		"tar -S -cf - -C / %[1]s 2>/dev/null | tar -xOf - > %[2]s",
	} {
		for _, to := range []string{dir, other} {
			path := filepath.Join(dir, fmt.Sprintf("f%d", i))
			fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o644)
			must(t, err)
			must(t, unix.Ftruncate(fd, size))
			must(t, unix.Close(fd)) // if a child closed it, the kernel would write back
			mapper.Map(path, size).Store(0, want)
			target := filepath.Join(to, fmt.Sprintf("copy%d", i))
			cmd := fmt.Sprintf(copyTo, path, target)
			if out, err := exec.Command("sh", "-c", cmd).CombinedOutput(); err != nil {
				t.Errorf("%s: %v %s", cmd, err, out)
			}
			if got, err := os.ReadFile(target); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, %d of them right, %v", cmd, len(got), bytes.Count(got, []byte("x")), err)
			}
		}
	}
}

// mappedReads checks that reads that bypass the page cache see data that was stored through a
// mapping.
func mappedReads(t *testing.T, dir string) {
	const size = 256 << 10
	fd := open(t, filepath.Join(dir, "f"), unix.O_RDWR|unix.O_CREAT)
	must(t, unix.Ftruncate(fd, size))
	m := NewMapper(t).Map(filepath.Join(dir, "f"), size)
	want := pattern(size, 3)
	m.Store(0, want)
	direct := open(t, filepath.Join(dir, "f"), unix.O_RDONLY|unix.O_DIRECT)
	buf, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON) // aligned
	must(t, err)
	defer func() { must(t, unix.Munmap(buf)) }()
	if n, err := unix.Pread(direct, buf, 0); n != size || !bytes.Equal(buf, want) {
		t.Errorf("O_DIRECT read %d bytes (%v), content right: %v", n, err, bytes.Equal(buf, want))
	}
	m.Store(1000, pattern(100, 9))
	copy(want[1000:], pattern(100, 9))
	dst := open(t, filepath.Join(dir, "g"), unix.O_RDWR|unix.O_CREAT)
	for off := int64(0); off < size; {
		n, err := unix.CopyFileRange(fd, &off, dst, nil, size, 0)
		must(t, err)
		if n == 0 {
			break
		}
	}
	content(t, filepath.Join(dir, "g"), want)
}

// mappedBeyondEnd checks that bytes stored beyond the end of a file, in its last page, do not
// become content when the file grows.
func mappedBeyondEnd(t *testing.T, dir string) {
	const end, size = 5000, 3 * 4096
	grow := []struct {
		name string
		do   func(fd int) error
	}{
		{"ftruncate", func(fd int) error { return unix.Ftruncate(fd, size) }},
		{"ftruncate in the page", func(fd int) error { return errors.Join(unix.Ftruncate(fd, end+50), unix.Ftruncate(fd, size)) }},
		{"write behind the page", func(fd int) error { _, err := unix.Pwrite(fd, []byte("z"), size-1); return err }},
		{"write at the next page", func(fd int) error { _, err := unix.Pwrite(fd, make([]byte, 4096), 2*4096); return err }},
		{"fallocate", func(fd int) error { return unix.Fallocate(fd, 0, 0, size) }},
		{"fallocate behind", func(fd int) error { return unix.Fallocate(fd, 0, 2*4096, 4096) }},
		{"zero range", func(fd int) error { return unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 2*4096, 4096) }},
		{"copy_file_range", func(fd int) error {
			src := open(t, filepath.Join(dir, "src"), unix.O_RDWR|unix.O_CREAT)
			_, err := unix.Pwrite(src, make([]byte, 4096), 0)
			from, to := int64(0), int64(2*4096)
			_, err2 := unix.CopyFileRange(src, &from, fd, &to, 4096, 0)
			return errors.Join(err, err2)
		}},
		{"append", func(fd int) error { _, err := unix.Pwrite(fd, make([]byte, size-end), end); return err }},
	}
	mapper := NewMapper(t)
	for i, g := range grow {
		path := filepath.Join(dir, fmt.Sprintf("f%d", i))
		fd := open(t, path, unix.O_RDWR|unix.O_CREAT)
		want := pattern(end, i)
		_, err := unix.Pwrite(fd, want, 0)
		must(t, err)
		m := mapper.Map(path, 2*4096)
		m.Store(end, bytes.Repeat([]byte("X"), 100))
		if err := g.do(fd); err != nil {
			t.Errorf("%s: %v", g.name, err)
			continue
		}
		if got := m.Load(end, 100); !bytes.Equal(got, make([]byte, 100)) {
			t.Errorf("%s: in the mapping, what was stored beyond the end became content", g.name)
		}
		want = append(want, make([]byte, size-end)...)
		if g.name == "write behind the page" {
			want[size-1] = 'z'
		}
		content(t, path, want)
		must(t, unix.Fsync(fd))
		direct := open(t, path, unix.O_RDONLY|unix.O_DIRECT)
		buf, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		must(t, err)
		if n, err := unix.Pread(direct, buf, 0); n != size || !bytes.Equal(buf, want) {
			t.Errorf("%s: the file system has other bytes than the page cache: %d, %v", g.name, n, err)
		}
		must(t, unix.Munmap(buf))
	}
}
