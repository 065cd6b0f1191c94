package mounter

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func unixPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	x, y, err := pairOf("test")
	if err != nil {
		t.Fatal(err)
	}
	var c [2]*net.UnixConn
	for i, f := range []*os.File{x, y} {
		n, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		c[i] = n.(*net.UnixConn)
		t.Cleanup(func() { n.Close() })
	}
	return c[0], c[1]
}

// open counts the descriptors of this process.
func open(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

// TestDescriptors: descriptors arrive in their order, with a message of any length. More than
// expected are refused, and none of them stays open.
func TestDescriptors(t *testing.T) {
	for n := range maxFiles + 2 {
		a, b := unixPair(t)
		before := open(t)
		var files []*os.File
		for i := range n {
			f, err := os.CreateTemp(t.TempDir(), "f")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString(strings.Repeat("x", i+1)); err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		in := call{Op: "snapshot-start", Volume: strings.Repeat("v", 100_000)}
		go func() { _ = writeFrame(&fileWriter{a, files}, in, envelope{RequestID: "id"}, nil) }()
		r := &fileReader{c: b}
		var out call
		_, _, err := r.frame(&out)
		switch {
		case n > maxFiles:
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%d: %v", n, err)
			}
		case err != nil || out.Volume != in.Volume || len(r.files) != n || r.file(n) != nil:
			t.Errorf("%d: %v, %d files", n, err, len(r.files))
		default:
			for i := range n {
				got := r.file(i)
				if fi, err := got.Stat(); err != nil || fi.Size() != int64(i+1) {
					t.Errorf("%d: %v, %v", i, fi, err)
				}
				if flags, err := unix.FcntlInt(got.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
					t.Errorf("%d is inherited by children: %v", i, err)
				}
			}
		}
		r.close()
		for _, f := range files {
			f.Close()
		}
		if after := open(t); after != before {
			t.Errorf("%d: %d descriptors before, %d after", n, before, after)
		}
	}
	a, b := unixPair(t)
	a.Close()
	if _, err := (&fileReader{c: b}).Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}
