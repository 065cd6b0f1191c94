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

// What programs store through mappings is only in the kernel until the kernel writes it back. A
// server cannot make the kernel write it back and keep its cache; syncfs(2) does not wait for FUSE,
// and later kernels do not even start (ADR 0025). Closing a file does write it back. So before a
// volume is frozen, a snapshot is made or its files are compared, the caller asks the server which
// files the kernel knows, and opens and closes each of them by its inode.

// Mounted serves the volume to the kernel.
type Mounted interface {
	// Files returns the regular files that the kernel knows.
	Files() []vfs.Ino
	// WriteBack makes the kernel write back mapped files and drop what it has cached.
	WriteBack(ctx context.Context) error
}

// filesBatch is how many inodes one item of the answer to "files" has.
const filesBatch = 4096

// addWriteBack adds "files", whose items are lists of inode numbers, and "write-back".
func (s *Server) addWriteBack(m control.Mux) {
	m["files"] = func(_ context.Context, c *control.Call) (any, error) {
		if s.Mounted == nil || s.ReadOnly || s.Volume.Frozen() > 0 {
			return nil, nil // a frozen volume writes nothing back: that would wait for the thaw
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

// WriteBack makes the kernel write back what programs have stored through mappings of files on the
// mount at dir, whose server c reaches. It returns when the server has all of it. A process that
// holds the connection's /dev/fuse must not call it, and it cannot be interrupted while the server
// hangs. It does nothing if the server's version does not know the request.
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

// errNoHandles means that this process cannot open files by inode, or not all of them: for a file
// with a lease (fcntl(2) F_SETLEASE, which Samba uses for oplocks) the kernel first asks the
// holder.
var errNoHandles = errors.New("files cannot be opened by inode")

// handleType is FILEID_INO64_GEN of the kernel, the type of FUSE's handles: inode number and
// generation (always 0 here) in 32-bit words, the higher half first.
const handleType = 0x81

// writeBackOne opens and closes a file by its inode number.
func writeBackOne(root int, ino uint64) error {
	h := make([]byte, 12)
	binary.NativeEndian.PutUint32(h, uint32(ino>>32))
	binary.NativeEndian.PutUint32(h[4:], uint32(ino))
	fd, err := unix.OpenByHandleAt(root, unix.NewFileHandle(handleType, h), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC)
	switch {
	case errors.Is(err, unix.ESTALE):
		return nil // the file is gone, and the kernel wrote it back when it was closed
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EACCES), errors.Is(err, unix.EAGAIN):
		return errNoHandles
	case err != nil:
		return fmt.Errorf("open inode %d: %w", ino, err)
	}
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("write back mapped data of inode %d: %w", ino, err)
	}
	return nil
}
