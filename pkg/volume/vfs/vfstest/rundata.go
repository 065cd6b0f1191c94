package vfstest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func readWrite(f *fixture) {
	ino := f.file(vfs.RootIno, "f", "")
	f.content(ino, nil)
	data := pattern(1<<20+12345, 1)
	f.write(ino, 0, data)
	f.content(ino, data)
	f.write(ino, 5000, []byte("overwritten"))
	copy(data[5000:], "overwritten")
	f.content(ino, data)
	f.write(ino, uint64(len(data)), []byte("appended"))
	data = append(data, "appended"...)
	f.content(ino, data)
	if got := f.read(ino, uint64(len(data)), 10); len(got) != 0 {
		f.Errorf("%d bytes beyond the end", len(got))
	}
	if got := f.read(ino, 1<<60, 10); len(got) != 0 {
		f.Errorf("%d bytes far beyond the end", len(got))
	}
	if got := f.read(ino, uint64(len(data))-3, 10); string(got) != "ded" {
		f.Errorf("at the end: %q", got)
	}
	before := f.stat(ino)
	if n, err := f.fs.Write(root, ino, 1<<30, nil, false); n != 0 || err != nil {
		f.Errorf("write of nothing: %d, %v", n, err)
	}
	if f.stat(ino) != before {
		f.Error("a write of nothing changes attributes")
	}
	buf := []byte("reused")
	f.write(ino, 0, buf)
	copy(buf, "XXXXXX") // data is not kept
	if got := f.read(ino, 0, 6); string(got) != "reused" {
		f.Errorf("got %q", got)
	}
}

func writeRandom(f *fixture) {
	rng := rand.New(rand.NewPCG(1, 2))
	ino := f.file(vfs.RootIno, "f", "")
	var want []byte
	for i := range 300 {
		off, data := rng.IntN(600_000), pattern(rng.IntN(40_000)+1, i)
		if end := off + len(data); end > len(want) {
			want = append(want, make([]byte, end-len(want))...)
		}
		copy(want[off:], data)
		f.write(ino, uint64(off), data)
		if i%50 == 0 {
			f.noErr(f.fs.Sync(ino))
		}
		off = rng.IntN(len(want))
		n := rng.IntN(50_000)
		if got := f.read(ino, uint64(off), n); !bytes.Equal(got, want[off:min(off+n, len(want))]) {
			f.Fatalf("write %d: read at %d differs", i, off)
		}
	}
	f.content(ino, want)
}

func sizes(f *fixture) {
	for _, n := range []int{1, 100, 511, 512, 1000, 2047, 2048, 3000, 4095, 4096, 4097, 8191, 65535, 65536, 65537, 131072, 200000} {
		f.content(f.file(vfs.RootIno, fmt.Sprint("f", n), string(pattern(n, n))), pattern(n, n))
		// The file grows byte by byte over the boundary.
		ino := f.file(vfs.RootIno, fmt.Sprint("g", n), string(pattern(n, n))[:n-1])
		f.write(ino, uint64(n-1), pattern(n, n)[n-1:])
		f.write(ino, uint64(n), []byte("z"))
		f.content(ino, append(pattern(n, n), 'z'))
	}
	ino := f.file(vfs.RootIno, "huge", "")
	for _, off := range []uint64{vfs.MaxFileBytes, 1 << 63, ^uint64(0)} {
		_, err := f.fs.Write(root, ino, off, []byte("xx"), false)
		f.wantErr(fmt.Sprintf("write at %d", off), err, vfs.ErrFileTooBig)
	}
	f.content(ino, nil)
}

func truncate(f *fixture) {
	for _, n := range []uint64{0, 1, 100, 4095, 4096, 4097, 65536, 70000, 199_999} {
		data := pattern(200_000, 1)
		ino := f.file(vfs.RootIno, fmt.Sprint("f", n), string(data))
		f.truncate(ino, n)
		f.content(ino, data[:n])
		f.truncate(ino, 250_000) // truncated data must not reappear
		want := append(slices.Clone(data[:n]), make([]byte, 250_000-n)...)
		f.content(ino, want)
		f.write(ino, 249_000, []byte("x"))
		want[249_000] = 'x'
		f.content(ino, want)
	}
	ino := f.file(vfs.RootIno, "big", "start")
	f.truncate(ino, 1<<40)
	if got := f.read(ino, 1<<39, 100); !bytes.Equal(got, make([]byte, 100)) {
		f.Error("no zeros")
	}
	size := uint64(1 << 63)
	_, err := f.fs.SetAttr(root, ino, &vfs.SetAttr{Size: &size})
	f.wantErr("too big", err, vfs.ErrFileTooBig)
	size = 0
	_, err = f.fs.SetAttr(root, f.dir(vfs.RootIno, "d"), &vfs.SetAttr{Size: &size})
	f.wantErr("a directory", err, vfs.ErrIsDir)
}

func sparse(f *fixture) {
	ino := f.file(vfs.RootIno, "f", "")
	data := pattern(128<<10, 1)
	f.write(ino, 10<<20, data)
	f.write(ino, 1<<40, data)
	f.seek(ino, 0, 10<<20, 10<<20+128<<10)
	f.seek(ino, 20<<20, 1<<40, 1<<40+128<<10)
	if a := f.stat(ino); a.Size != 1<<40+128<<10 || a.Blocks > 4096 {
		f.Errorf("size %d, blocks %d", a.Size, a.Blocks)
	}
	if got := f.read(ino, 10<<20-100, 200); !bytes.Equal(got[:100], make([]byte, 100)) || !bytes.Equal(got[100:], data[:100]) {
		f.Error("around the start of data")
	}
	if got, err := f.fs.SeekHole(ino, 0); err != nil || got != 0 {
		f.Errorf("hole from 0: %d, %v", got, err)
	}
	size := uint64(1<<40 + 128<<10)
	if got, err := f.fs.SeekHole(ino, size-1); err != nil || got != size {
		f.Errorf("the end is a hole: %d, %v", got, err)
	}
	for _, off := range []uint64{size, size + 1, 1 << 62} {
		_, err := f.fs.SeekData(ino, off)
		f.wantErr("data at the end", err, vfs.ErrNoData)
		_, err = f.fs.SeekHole(ino, off)
		f.wantErr("hole at the end", err, vfs.ErrNoData)
	}
	f.truncate(ino, 2<<40)
	_, err := f.fs.SeekData(ino, 1<<40+1<<20)
	f.wantErr("data in the last hole", err, vfs.ErrNoData)
}

func fallocate(f *fixture) {
	const n = 300_000
	want := pattern(n, 1)
	ino := f.file(vfs.RootIno, "f", string(want))
	do := func(mode uint32, off, length uint64) {
		f.Helper()
		f.noErr(f.fs.Fallocate(root, ino, mode, off, length))
		f.content(ino, want)
	}
	for _, r := range [][2]uint64{{100, 50}, {4096, 4096}, {5000, 100_000}, {131072, 65536}, {299_000, 1 << 30}} {
		clear(want[r[0]:min(r[0]+r[1], n)])
		do(vfs.FallocPunchHole|vfs.FallocKeepSize, r[0], r[1])
	}
	want = pattern(n, 2)
	f.write(ino, 0, want)
	for _, r := range [][2]uint64{{100, 50}, {4096, 4096}, {70_000, 100_000}, {299_000, 500_000}} {
		clear(want[r[0]:min(r[0]+r[1], n)])
		do(vfs.FallocZeroRange|vfs.FallocKeepSize, r[0], r[1])
	}
	clear(want[290_000:])
	want = append(want, make([]byte, 10_000)...)
	do(vfs.FallocZeroRange, 290_000, 20_000)
	do(vfs.FallocKeepSize, 300_000, 100_000)
	want = append(want, make([]byte, 90_000)...)
	do(0, 350_000, 50_000)
	f.wantErr("nothing", f.fs.Fallocate(root, ino, 0, 0, 0), vfs.ErrInvalid)
	f.wantErr("too far", f.fs.Fallocate(root, ino, 0, vfs.MaxFileBytes, 1), vfs.ErrFileTooBig)
	f.wantErr("punch without keep size", f.fs.Fallocate(root, ino, vfs.FallocPunchHole, 0, 4096), vfs.ErrNotSupported)
	f.wantErr("collapse", f.fs.Fallocate(root, ino, 8, 0, 4096), vfs.ErrNotSupported)
	f.wantErr("a directory", f.fs.Fallocate(root, vfs.RootIno, 0, 0, 1), vfs.ErrIsDir)
	// Reserved space counts in the file and in the file system, and is a hole.
	p := f.file(vfs.RootIno, "p", "")
	before := f.fs.StatFS()
	f.noErr(f.fs.Fallocate(root, p, 0, 0, 1<<20))
	// A quarter is left open: what the overwrites above replaced may become free meanwhile.
	a, s := f.stat(p), f.fs.StatFS()
	if least := 1 << 20 / uint64(s.BlockSize) * 3 / 4; a.Blocks != 1<<20/512 || before.BlocksAvail < s.BlocksAvail+least || before.BlocksFree < s.BlocksFree+least {
		f.Errorf("%d blocks; %d of %d blocks free, before %d of %d", a.Blocks, s.BlocksAvail, s.BlocksFree, before.BlocksAvail, before.BlocksFree)
	}
	_, err := f.fs.SeekData(p, 0)
	f.wantErr("data in what is reserved", err, vfs.ErrNoData)
	f.reservedBeyond()
	f.wantErr("more than there is", f.fs.Fallocate(root, p, 0, 0, (before.BlocksAvail+1)*uint64(before.BlockSize)), vfs.ErrNoSpace)
	// Writes use the reserved space.
	f.write(p, 1000, pattern(500_000, 3))
	f.content(p, slices.Concat(make([]byte, 1000), pattern(500_000, 3), make([]byte, 1<<20-501_000)))
}

// reservedBeyond reserves space beyond the end of a file. Punching a hole and truncating to the
// same size release it.
func (f *fixture) reservedBeyond() {
	f.Helper()
	const size = 10_000
	b := f.file(vfs.RootIno, "beyond", string(pattern(size, 9)))
	blocks := func(what string, want uint64) {
		f.Helper()
		f.noErr(f.fs.Sync(vfs.RootIno))
		if a := f.stat(b); a.Blocks != want/512 || a.Size != size {
			f.Errorf("%s: %d blocks, want %d; %d bytes", what, a.Blocks, want/512, a.Size)
		}
		f.content(b, pattern(size, 9))
	}
	f.noErr(f.fs.Fallocate(root, b, vfs.FallocKeepSize, 8192, 1<<20))
	blocks("beyond the end", 8192+1<<20)
	f.noErr(f.fs.Fallocate(root, b, vfs.FallocPunchHole|vfs.FallocKeepSize, 524288, 65536))
	blocks("a hole", 8192+1<<20-65536)
	f.noErr(f.fs.Fallocate(root, b, vfs.FallocZeroRange|vfs.FallocKeepSize, 524288, 65536))
	blocks("zeros", 8192+1<<20)
	f.truncate(b, size)
	blocks("cut", 12288)
}

func copyRange(f *fixture) {
	src := pattern(300_000, 1)
	a, b := f.file(vfs.RootIno, "a", string(src)), f.file(vfs.RootIno, "b", "")
	copyIt := func(from vfs.Ino, off uint64, to vfs.Ino, toOff, length, want uint64) {
		f.Helper()
		if n, err := f.fs.CopyRange(root, from, off, to, toOff, length); err != nil || n != want {
			f.Errorf("copied %d, %v; want %d", n, err, want)
		}
	}
	copyIt(a, 1000, b, 50, 200_000, 200_000)
	f.content(b, append(make([]byte, 50), src[1000:201_000]...))
	copyIt(a, 299_000, b, 0, 5000, 1000)
	copyIt(a, 300_000, b, 0, 5000, 0)
	copyIt(a, 1<<40, b, 0, 5000, 0)
	copyIt(a, 0, a, 200_000, 100_000, 100_000)
	copy(src[200_000:], src[:100_000])
	f.content(a, src)
	copyIt(a, 0, a, 300_000, 1000, 1000)
	f.content(a, append(src, src[:1000]...))
	for _, c := range [][3]uint64{{0, 100, 1000}, {100, 0, 1000}, {0, 0, 10}} {
		_, err := f.fs.CopyRange(root, a, c[0], a, c[1], c[2])
		f.wantErr("overlap", err, vfs.ErrInvalid)
	}
	// The copy is independent.
	c := f.file(vfs.RootIno, "c", "")
	copyIt(a, 0, c, 0, 100_000, 100_000)
	f.write(a, 0, []byte("changed"))
	if got := f.read(c, 0, 7); !bytes.Equal(got, src[:7]) {
		f.Error("a write changes the copy")
	}
	// Holes are copied as zeros.
	h := f.file(vfs.RootIno, "h", "")
	f.truncate(h, 200_000)
	copyIt(h, 0, c, 10, 50_000, 50_000)
	if got := f.read(c, 10, 50_000); !bytes.Equal(got, make([]byte, 50_000)) {
		f.Error("a hole is copied as data")
	}
	_, err := f.fs.CopyRange(root, a, 0, c, vfs.MaxFileBytes-5, 100)
	f.wantErr("too far", err, vfs.ErrFileTooBig)
	_, err = f.fs.CopyRange(root, vfs.RootIno, 0, c, 0, 100)
	f.wantErr("from a directory", err, vfs.ErrIsDir)
}

// concurrent changes one tree in many goroutines, for the race detector, and checks the result.
func concurrent(f *fixture) {
	const workers, rounds = 8, 40
	shared := f.file(vfs.RootIno, "shared", "")
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				name := fmt.Sprintf("w%d-%d", w, i)
				a, err := f.fs.Mknod(root, vfs.RootIno, name, syscall.S_IFREG|0o600, 0)
				if err != nil {
					f.Error(err)
					return
				}
				data := pattern(3000, w*rounds+i)
				_, err1 := f.fs.Write(root, a.Ino, 0, data, false)
				_, err2 := f.fs.Write(root, shared, uint64((w*rounds+i)*3000), data, false)
				err3 := f.fs.Rename(root, vfs.RootIno, name, vfs.RootIno, "r"+name, 0)
				err4 := f.fs.ReadDir(vfs.RootIno, 0, true, func(vfs.Dirent, *vfs.Attr) bool { return true })
				_, err5 := f.fs.Lookup(vfs.RootIno, "r"+name)
				var err6 error
				if i%2 == 0 {
					err6 = f.fs.Unlink(root, vfs.RootIno, "r"+name)
					f.fs.Forget(a.Ino)
				}
				if i%10 == 0 {
					err6 = errors.Join(err6, f.fs.Sync(shared))
				}
				if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
					f.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var want []byte
	for i := range workers * rounds {
		want = append(want, pattern(3000, i)...)
	}
	f.content(shared, want)
	if n := len(strings.Fields(f.names(vfs.RootIno))); n != workers*rounds/2+1 {
		f.Errorf("%d names", n)
	}
}
