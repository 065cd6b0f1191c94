package vfstest

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// fixture is a file system under test with helpers that fail the test.
type fixture struct {
	*testing.T
	fs vfs.FS
}

var root = &vfs.Req{}

func (f *fixture) noErr(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) wantErr(what string, err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

func (f *fixture) snapshot() []string {
	f.Helper()
	lines, err := Snapshot(f.fs, SnapshotOptions{Times: true, Inos: true})
	f.noErr(err)
	return lines
}

// got returns the attributes, and fails the test on an error.
func (f *fixture) got(a vfs.Attr, err error) vfs.Attr {
	f.Helper()
	f.noErr(err)
	return a
}

func (f *fixture) stat(ino vfs.Ino) vfs.Attr {
	f.Helper()
	return f.got(f.fs.GetAttr(ino))
}

func (f *fixture) file(parent vfs.Ino, name, content string) vfs.Ino {
	f.Helper()
	a := f.got(f.fs.Mknod(root, parent, name, syscall.S_IFREG|0o644, 0))
	if content != "" {
		f.write(a.Ino, 0, []byte(content))
	}
	return a.Ino
}

func (f *fixture) dir(parent vfs.Ino, name string) vfs.Ino {
	f.Helper()
	return f.got(f.fs.Mkdir(root, parent, name, 0o755)).Ino
}

func (f *fixture) write(ino vfs.Ino, off uint64, data []byte) {
	f.Helper()
	for done := 0; done < len(data); {
		n, err := f.fs.Write(root, ino, off+uint64(done), data[done:], false)
		f.noErr(err)
		if n == 0 {
			f.Fatal("wrote nothing")
		}
		done += n
	}
}

func (f *fixture) read(ino vfs.Ino, off uint64, n int) []byte {
	f.Helper()
	b := bytes.Repeat([]byte{0xaa}, n)
	n, err := f.fs.Read(ino, off, b)
	f.noErr(err)
	return b[:n]
}

func (f *fixture) content(ino vfs.Ino, want []byte) {
	f.Helper()
	if size := f.stat(ino).Size; size != uint64(len(want)) {
		f.Errorf("size %d, want %d", size, len(want))
	}
	if got := f.read(ino, 0, len(want)+10); !bytes.Equal(got, want) {
		at := 0
		for at < min(len(got), len(want)) && got[at] == want[at] {
			at++
		}
		f.Errorf("content of %d bytes (want %d) differs at %d", len(got), len(want), at)
	}
}

func (f *fixture) names(dir vfs.Ino) string {
	f.Helper()
	entries, err := readAll(f.fs, dir)
	f.noErr(err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func (f *fixture) nlink(ino vfs.Ino, want uint32) {
	f.Helper()
	if got := f.stat(ino).Nlink; got != want {
		f.Errorf("nlink %d, want %d", got, want)
	}
}

func pattern(n, seed int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7+i>>8+seed) | 1 // never zero
	}
	return b
}

func after(a, b vfs.Timespec) bool { return a.Sec > b.Sec || a.Sec == b.Sec && a.Nsec > b.Nsec }

func (f *fixture) truncate(ino vfs.Ino, size uint64) vfs.Attr {
	f.Helper()
	a := f.got(f.fs.SetAttr(root, ino, &vfs.SetAttr{Size: &size}))
	if a.Size != size {
		f.Errorf("size %d, want %d", a.Size, size)
	}
	return a
}

// seek checks SeekData and SeekHole against the ranges with data. A hole may begin up to 64 KiB
// later, and data up to 64 KiB earlier.
func (f *fixture) seek(ino vfs.Ino, off, wantData, wantHole uint64) {
	f.Helper()
	const slack = 64 << 10
	if got, err := f.fs.SeekData(ino, off); err != nil || got > wantData || got < max(off, wantData-min(wantData, slack)) {
		f.Errorf("data from %d: %d, %v; want %d", off, got, err, wantData)
	}
	if got, err := f.fs.SeekHole(ino, wantData); err != nil || got < wantHole || got > wantHole+slack {
		f.Errorf("hole from %d: %d, %v; want %d", wantData, got, err, wantHole)
	}
}

// acl returns the ACL of an inode, or nil if none is stored.
func (f *fixture) acl(ino vfs.Ino, name string) []byte {
	f.Helper()
	value, err := f.fs.GetXattr(ino, name)
	if errors.Is(err, vfs.ErrNoXattr) {
		return nil
	}
	f.noErr(err)
	return value
}
