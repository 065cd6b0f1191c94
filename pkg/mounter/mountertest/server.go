package mountertest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
)

// EnvData names the directory below which the server stores the files of its volumes.
const EnvData = "SEALVOL_TEST_DATA"

var magic = []byte("sealvol test volume ")

// half is at the start of a device whose formatting was interrupted.
var half = []byte("sealvol half ")

// Serve is a mounter.Serve. The first bytes of the device say that it is formatted, and with which
// key.
func Serve(ctx context.Context, c mounter.ServeConfig) error {
	if err := unix.Flock(int(c.Device.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%w: the device is locked", mounter.ErrBusy)
	}
	if err := open(c); err != nil {
		return err
	}
	c.Keys.Clear()
	data := filepath.Join(os.Getenv(EnvData), c.Volume)
	if err := os.MkdirAll(data, 0o755); err != nil {
		return err
	}
	h := &handler{c: c, stop: make(chan struct{})}
	if _, err := h.Grow(ctx); err != nil {
		return err
	}
	if err := c.Ready(ctx, control.NewMux(h)); err != nil {
		return err
	}
	root, err := fs.NewLoopbackRoot(data)
	if err != nil {
		return err
	}
	srv, err := fuse.NewServer(fs.NewNodeFS(root, nil), fmt.Sprintf("/dev/fd/%d", c.Fuse.Fd()), &fuse.MountOptions{AllowOther: true,
		DisabledCapabilities: fuse.CAP_PASSTHROUGH}) // files must become inaccessible with their server
	if err != nil {
		return err
	}
	c.Serving()
	done := make(chan struct{})
	go func() {
		srv.Serve()
		close(done)
	}()
	select {
	case <-done:
	case <-h.stop:
	case <-ctx.Done():
	}
	if os.Getenv("SEALVOL_TEST_BAD_END") != "" {
		return errors.New("final commit failed")
	}
	return nil
}

func open(c mounter.ServeConfig) error {
	head := make([]byte, 4096)
	if _, err := c.Device.ReadAt(head, 0); err != nil {
		return err
	}
	hash := func(k []byte) []byte {
		s := sha256.Sum256(k)
		return append(bytes.Clone(magic), hex.EncodeToString(s[:])...)
	}
	switch {
	case bytes.HasPrefix(head, hash(c.Keys.KEK())), c.Keys.Previous() != nil && bytes.HasPrefix(head, hash(c.Keys.Previous())):
		return nil
	case bytes.HasPrefix(head, magic):
		return mounter.ErrWrongKey
	case bytes.HasPrefix(head, half) && c.Format != nil && c.Format.Again:
	case len(bytes.Trim(head, "\x00")) > 0:
		return mounter.ErrForeign
	case c.ReadOnly || c.Format == nil:
		return mounter.ErrBlank
	}
	if _, err := c.Device.WriteAt(hash(c.Keys.KEK()), 0); err != nil {
		return err
	}
	return c.Device.Sync()
}

type handler struct {
	c       mounter.ServeConfig
	size    atomic.Int64
	stop    chan struct{}
	stopped atomic.Bool
}

func (h *handler) Status(context.Context) (control.Status, error) {
	return control.Status{Volume: h.c.Volume, PID: os.Getpid(), ReadOnly: h.c.ReadOnly}, nil
}

func (h *handler) Stats(context.Context) (control.Stats, error) {
	n := h.size.Load()
	return control.Stats{TotalBytes: n, UsedBytes: 4096, AvailableBytes: n - 4096}, nil
}

func (h *handler) Grow(context.Context) (int64, error) {
	n, err := h.c.Device.Seek(0, io.SeekEnd) // works for files and block devices
	if err != nil {
		return 0, err
	}
	h.size.Store(n)
	return n, nil
}

func (h *handler) Sync(context.Context) error {
	if f := os.Getenv(EnvSynced); f != "" {
		return os.WriteFile(f, nil, 0o600)
	}
	return nil
}

func (h *handler) Unmount(context.Context) error {
	if h.stopped.CompareAndSwap(false, true) {
		close(h.stop)
	}
	return nil
}
