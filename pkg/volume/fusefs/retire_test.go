package fusefs_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/fusefs/fusefstest"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/vfstest"
)

// slowFS delays StatFS, and records calls that come too late.
type slowFS struct {
	vfs.FS

	t       *testing.T
	inside  chan struct{} // receives a value when StatFS begins
	goOn    chan struct{}
	retired bool // set after Retire has returned, before more requests arrive
}

func (s *slowFS) StatFS() vfs.StatFS {
	s.check()
	s.inside <- struct{}{}
	<-s.goOn
	return s.FS.StatFS()
}

func (s *slowFS) GetAttr(ino vfs.Ino) (vfs.Attr, error) {
	s.check()
	return s.FS.GetAttr(ino)
}

func (s *slowFS) Forget(ino vfs.Ino) {
	s.check()
	s.FS.Forget(ino)
}

func (s *slowFS) check() {
	if s.retired {
		s.t.Error("called after Retire")
	}
}

// TestRetire checks that Retire waits for the requests in the FS, that later requests are answered
// with ENOTCONN, and that the FS is not called any more, not even at the end.
func TestRetire(t *testing.T) {
	fs := &slowFS{FS: vfstest.NewMemFS(), t: t, inside: make(chan struct{}), goOn: make(chan struct{})}
	m := fusefstest.Mount(t, fs, fusefstest.Options{})
	if err := os.WriteFile(filepath.Join(m.Dir, "file"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		answered <- unix.Statfs(m.Dir, &st)
	}()
	<-fs.inside
	retired := make(chan struct{})
	go func() {
		m.Server.Retire()
		close(retired)
	}()
	select {
	case <-retired:
		t.Error("retired while a request is in the FS")
	default:
	}
	close(fs.goOn)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	<-retired
	fs.retired = true
	var st unix.Statfs_t
	if err := unix.Statfs(m.Dir, &st); !errors.Is(err, unix.ENOTCONN) {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(m.Dir, "other"), nil, 0o600); !errors.Is(err, unix.ENOTCONN) {
		t.Error(err)
	}
	m.Unmount()
}
