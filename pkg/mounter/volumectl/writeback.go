package volumectl

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// What programs store through mappings lies in the kernel alone until the kernel writes it back, and
// nothing that a server can do by itself makes it do so and keeps what is cached; syncfs(2) does not
// wait for FUSE, in later kernels not even begin (ADR 0067). Closing a file does both. So before a
// volume is frozen, a snapshot is made or its files are compared, the caller asks the server which
// files the kernel knows, and opens and closes each, by its inode.

// Mounted is what serves the volume to the kernel.
type Mounted interface {
	// Files is the regular files that the kernel knows.
	Files() []vfs.Ino
	// WriteBack has the kernel write back mapped files, and drop what it has cached.
	WriteBack(ctx context.Context) error
}

// filesBatch is how many inodes one item of the answer to "files" has.
const filesBatch = 4096

// addWriteBack adds "files", whose items are lists of inode numbers, and "write-back".
func (s *Server) addWriteBack(m control.Mux) {
	m["files"] = func(_ context.Context, c *control.Call) (any, error) {
		if s.Mounted == nil || s.ReadOnly || s.Volume.Frozen() > 0 {
			return nil, nil // at rest nothing is written back: it would wait for the thaw
		}
		files := s.Mounted.Files()
		for len(files) > 0 {
			n := min(len(files), filesBatch)
			if err := c.Item(files[:n]); err != nil {
				return nil, err
			}
			files = files[n:]
		}
		return nil, nil
	}
	m["write-back"] = func(ctx context.Context, _ *control.Call) (any, error) {
		if s.Mounted == nil || s.ReadOnly || s.Volume.Frozen() > 0 {
			return nil, nil
		}
		return nil, s.Mounted.WriteBack(ctx)
	}
}

// WriteBack has the kernel write back what programs have stored through mappings of files of the
// mount on dir, whose server is asked by c. It returns when the server has all of it. It must not
// be called by a process that holds the connection's /dev/fuse, and it cannot be interrupted while
// the server hangs. Servers of versions that do not know the request are left alone.
func WriteBack(ctx context.Context, c control.Client, dir string) error {
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(root)
	err = c.Do(ctx, control.Request{Op: "files", Item: func(b json.RawMessage) error {
		var inos []uint64
		if err := json.Unmarshal(b, &inos); err != nil {
			return err
		}
		for _, ino := range inos {
			if err := writeBackOne(root, ino); err != nil {
				return err
			}
		}
		return nil
	}}, nil)
	switch {
	case control.HasCode(err, control.CodeUnknown):
		return nil
	case errors.Is(err, errNoHandles):
		return c.Do(ctx, control.Request{Op: "write-back"}, nil)
	}
	return err
}

// errNoHandles means that this process may open no file by its inode, or not each: of one with a
// lease (fcntl(2) F_SETLEASE, as Samba's for oplocks) the kernel wants to ask the holder first.
var errNoHandles = errors.New("files cannot be opened by inode")

// handleType is FILEID_INO64_GEN of the kernel, what handles of FUSE are: inode number
// and generation, which is always 0 here, in words of 32 bits, the higher half first.
const handleType = 0x81

// writeBackOne opens and closes a file by its inode number.
func writeBackOne(root int, ino uint64) error {
	h := make([]byte, 12)
	binary.NativeEndian.PutUint32(h, uint32(ino>>32))
	binary.NativeEndian.PutUint32(h[4:], uint32(ino))
	fd, err := unix.OpenByHandleAt(root, unix.NewFileHandle(handleType, h), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC)
	switch {
	case errors.Is(err, unix.ESTALE):
		return nil // it is gone, and the kernel wrote back when it was closed
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EACCES), errors.Is(err, unix.EAGAIN):
		return errNoHandles
	case err != nil:
		return fmt.Errorf("open inode %d: %w", ino, err)
	}
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("inode %d: what was stored through a mapping is not written back: %w", ino, err)
	}
	return nil
}
