package fusefs_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/fusefs"
	"github.com/sealvol/sealvol/pkg/volume/fusefs/fusefstest"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/vfstest"
)

// slowGrowth delays every change of a size, like a freeze or a commit.
type slowGrowth struct {
	*vfstest.MemFS
	begun chan struct{} // one for each
	end   chan struct{} // when closed, they continue
}

func (s *slowGrowth) SetAttr(req *vfs.Req, ino vfs.Ino, set *vfs.SetAttr) (vfs.Attr, error) {
	if set.Size != nil {
		s.begun <- struct{}{}
		<-s.end
	}
	return s.MemFS.SetAttr(req, ino, set)
}

// TestGrowthWithReads enlarges files in all handlers, while READs that wait for a handler hold the
// locks of their last pages.
func TestGrowthWithReads(t *testing.T) {
	const handlers = 4
	fs := &slowGrowth{vfstest.NewMemFS(), make(chan struct{}, handlers), make(chan struct{})}
	var fds []int
	for i := range handlers {
		a, err := fs.Mknod(&vfs.Req{}, vfs.RootIno, fmt.Sprint("f", i), unix.S_IFREG|0o600, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fs.Write(&vfs.Req{}, a.Ino, 0, []byte("content"), false); err != nil {
			t.Fatal(err)
		}
	}
	m := fusefstest.Mount(t, fs, fusefstest.Options{Server: fusefs.Options{MaxHandlers: handlers}})
	for i := range handlers {
		fd, err := unix.Open(filepath.Join(m.Dir, fmt.Sprint("f", i)), unix.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		fds = append(fds, fd)
	}
	var wg sync.WaitGroup
	for _, fd := range fds {
		wg.Go(func() {
			if err := unix.Ftruncate(fd, 10000); err != nil {
				t.Error(err)
			}
		})
	}
	for range fds {
		<-fs.begun
	}
	for _, fd := range fds {
		wg.Go(func() {
			b := make([]byte, 7)
			if _, err := unix.Pread(fd, b, 0); err != nil || string(b) != "content" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
	for waiting := ""; waiting != fmt.Sprint(2*handlers); {
		b, err := os.ReadFile(fmt.Sprintf("/sys/fs/fuse/connections/%d/waiting", m.Connection))
		if err != nil {
			t.Fatal(err)
		}
		waiting = strings.TrimSpace(string(b))
	}
	close(fs.end)
	wg.Wait()
}

// reusing is an FS that may reuse inode numbers.
type reusing struct{ *vfstest.MemFS }

func (reusing) ReusesInos() bool { return true }

// TestHandlesOfReusedInos checks handles of an FS that may reuse inode numbers. A handle is valid
// while the kernel knows the inode. Afterwards it is stale, because the number may belong to
// another file.
func TestHandlesOfReusedInos(t *testing.T) {
	m := fusefstest.Mount(t, reusing{vfstest.NewMemFS()}, fusefstest.Options{})
	f := filepath.Join(m.Dir, "f")
	if err := os.WriteFile(f, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, f, 0)
	if err != nil {
		t.Fatal(err)
	}
	root, err := unix.Open(m.Dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	held, err := unix.Open(f, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.OpenByHandleAt(root, h, unix.O_RDONLY)
	if err != nil {
		t.Fatalf("of an inode that the kernel holds: %v", err)
	}
	unix.Close(fd)
	unix.Close(held)
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
		t.Fatal(err)
	}
	if fd, err := unix.OpenByHandleAt(root, h, unix.O_RDONLY); !errors.Is(err, unix.ESTALE) {
		t.Errorf("of an inode that the kernel has forgotten: %d, %v", fd, err)
		unix.Close(fd)
	}
}
