package fusefs_test

import (
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/fusefs"
	"github.com/sealvol/sealvol/pkg/volume/fusefs/fusefstest"
	"github.com/sealvol/sealvol/pkg/volume/vfs/vfstest"
)

// BenchmarkLoop compares our read loop with go-fuse's server. Both serve a MemFS, so it measures
// the cost of FUSE itself. In both cases, server and client are one process.
func BenchmarkLoop(b *testing.B) {
	for _, job := range jobs {
		for _, server := range []string{"sealvol", "go-fuse"} {
			b.Run(job.name+"/"+server, func(b *testing.B) {
				dir := benchMount(b, server)
				runtime.GC()
				b.ReportAllocs()
				job.run(b, dir)
			})
		}
	}
}

func benchMount(b *testing.B, server string) string {
	if server == "sealvol" {
		return fusefstest.Mount(b, vfstest.NewMemFS(), fusefstest.Options{Deadline: 5 * time.Minute}).Dir
	}
	dir := b.TempDir()
	s, err := fusefs.GoFuse(vfstest.NewMemFS(), dir)
	if err != nil {
		b.Fatal(err)
	}
	go s.Serve()
	if err := s.WaitMount(); err != nil {
		b.Fatal(err)
	}
	id, err := fusefs.ConnectionID(dir)
	if err != nil {
		b.Fatal(err)
	}
	timer := time.AfterFunc(5*time.Minute, func() { b.Errorf("too late; aborted: %v", fusefs.AbortConnection(id)) })
	b.Cleanup(func() {
		timer.Stop()
		if err := fusefs.Unmount(dir, false); err != nil {
			b.Error(err)
		}
	})
	if err := fusefs.Tune(dir); err != nil {
		b.Fatal(err)
	}
	return dir
}

var jobs = []struct {
	name string
	run  func(b *testing.B, dir string)
}{
	{"write1M", func(b *testing.B, dir string) { benchWrite(b, dir, 1<<20, 64<<20, 0) }},
	{"write1Mdirect", func(b *testing.B, dir string) { benchWrite(b, dir, 1<<20, 64<<20, unix.O_DIRECT) }},
	{"write4K", func(b *testing.B, dir string) { benchWrite(b, dir, 4<<10, 64<<20, 0) }},
	{"read1Mdirect", func(b *testing.B, dir string) { benchRead(b, dir, 1<<20, unix.O_DIRECT) }},
	{"readCold", benchReadCold},
	{"read4Kdirect", func(b *testing.B, dir string) { benchRead(b, dir, 4<<10, unix.O_DIRECT) }},
	{"read4Kparallel", benchReadParallel},
	{"writeFsync", benchWriteFsync},
	{"create", benchCreate},
	{"stat", benchStat},
}

func benchOpen(b *testing.B, path string, flags int) int {
	b.Helper()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|flags, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	return fd
}

func alignedBytes(n int) []byte {
	buf := make([]byte, n+4096)
	return buf[int(-uintptr(unsafe.Pointer(&buf[0]))%4096):][:n]
}

func benchWrite(b *testing.B, dir string, unit, size, flags int) {
	fd := benchOpen(b, dir+"/f", flags)
	defer unix.Close(fd)
	buf := alignedBytes(unit)
	for off := 0; off < size; off += unit { // the memory of MemFS and of the page cache
		if _, err := unix.Pwrite(fd, buf, int64(off)); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(unit))
	for i := 0; b.Loop(); i++ {
		if _, err := unix.Pwrite(fd, buf, int64(i*unit%size)); err != nil {
			b.Fatal(err)
		}
	}
}

const benchFileBytes = 128 << 20

func benchFile(b *testing.B, dir string) string {
	f := dir + "/f"
	fd := benchOpen(b, f, 0)
	defer unix.Close(fd)
	buf := alignedBytes(1 << 20)
	for off := 0; off < benchFileBytes; off += len(buf) {
		if _, err := unix.Pwrite(fd, buf, int64(off)); err != nil {
			b.Fatal(err)
		}
	}
	return f
}

func benchRead(b *testing.B, dir string, unit, flags int) {
	fd := benchOpen(b, benchFile(b, dir), flags)
	defer unix.Close(fd)
	buf := alignedBytes(unit)
	b.SetBytes(int64(unit))
	for i := 0; b.Loop(); i++ {
		if n, err := unix.Pread(fd, buf, int64(i*unit*7%benchFileBytes)); n != unit || err != nil {
			b.Fatal(n, err)
		}
	}
}

// benchReadCold reads a file that is not in the page cache, with read-ahead.
func benchReadCold(b *testing.B, dir string) {
	fd := benchOpen(b, benchFile(b, dir), 0)
	defer unix.Close(fd)
	buf := alignedBytes(1 << 20)
	b.SetBytes(benchFileBytes)
	for b.Loop() {
		if err := unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED); err != nil {
			b.Fatal(err)
		}
		for off := 0; off < benchFileBytes; off += len(buf) {
			if _, err := unix.Pread(fd, buf, int64(off)); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func benchReadParallel(b *testing.B, dir string) {
	fd := benchOpen(b, benchFile(b, dir), unix.O_DIRECT)
	defer unix.Close(fd)
	var next atomic.Int64
	b.SetBytes(4096)
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		buf := alignedBytes(4096)
		for pb.Next() {
			if _, err := unix.Pread(fd, buf, next.Add(1)*4096*37%benchFileBytes); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func benchWriteFsync(b *testing.B, dir string) {
	fd := benchOpen(b, dir+"/f", 0)
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	for i := 0; b.Loop(); i++ {
		if _, err := unix.Pwrite(fd, buf, int64(i%1000*4096)); err != nil {
			b.Fatal(err)
		}
		if err := unix.Fsync(fd); err != nil {
			b.Fatal(err)
		}
	}
}

func benchCreate(b *testing.B, dir string) {
	for i := 0; b.Loop(); i++ {
		unix.Close(benchOpen(b, fmt.Sprintf("%s/f%d", dir, i), unix.O_EXCL))
	}
}

func benchStat(b *testing.B, dir string) {
	const files = 1000
	for i := range files {
		if err := os.WriteFile(fmt.Sprintf("%s/f%d", dir, i), nil, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	var stx unix.Statx_t
	for i := 0; b.Loop(); i++ {
		// AT_STATX_FORCE_SYNC, so that the kernel does not answer from its cache.
		if err := unix.Statx(unix.AT_FDCWD, fmt.Sprintf("%s/f%d", dir, i%files), unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &stx); err != nil {
			b.Fatal(err)
		}
	}
}
