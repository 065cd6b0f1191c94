package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// serveVolume is the mount server: it opens the volume, formatting a blank device if it may, and serves it.
func serveVolume(ctx context.Context, c mounter.ServeConfig) error {
	dev, err := device.NewFile(c.Device, device.OpenOptions{ReadOnly: c.ReadOnly})
	if err != nil {
		return engineError(err)
	}
	v, err := openVolume(dev, c)
	if err != nil {
		return engineError(err)
	}
	err = serveOpen(ctx, v, dev, c)
	return errors.Join(err, v.Close()) // a volume that failed is closed all the same
}

func serveOpen(ctx context.Context, v *volume.Volume, dev *device.File, c mounter.ServeConfig) error {
	srv, err := fusefs.NewServer(fusefs.Options{FS: v, Device: c.Fuse, ReadOnly: c.ReadOnly, Logger: slog.Default()})
	if err != nil {
		return err
	}
	h := &volumeControl{v: v, dev: dev, c: c, stop: make(chan struct{}), stopped: make(chan struct{})}
	defer close(h.stopped)
	if err := c.Ready(ctx, h); err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve() }()
	ready := srv.Ready()
	for {
		select {
		case <-ready:
			ready = nil
			c.Serving()
		case err := <-served:
			if errors.Is(err, fusefs.ErrAborted) {
				return nil // somebody cut the connection: what was acknowledged is committed all the same
			}
			return err
		case <-h.stop:
			h.closeErr = v.Close() // requests fail from here on; the process ends, and with it the connection
			return h.closeErr
		case <-ctx.Done():
			return nil
		}
	}
}

// openVolume opens with the current key, else with the one before, and formats what is blank if it may.
func openVolume(dev *device.File, c mounter.ServeConfig) (*volume.Volume, error) {
	keys := [][]byte{c.Keys.KEK()}
	if p := c.Keys.Previous(); p != nil {
		keys = append(keys, p)
	}
	blank, what, err := volume.IsBlank(dev)
	if err != nil {
		return nil, err
	}
	if blank && (c.Format == nil || c.ReadOnly) {
		return nil, mounter.ErrReadOnly
	}
	var last error
	for i, raw := range keys {
		key, err := crypto.NewKey(raw) // clears raw
		if err != nil {
			return nil, err
		}
		cred := crypto.SecretCredential(key)
		if blank && i == 0 {
			if err := format(dev, cred, *c.Format); err != nil {
				key.Erase()
				return nil, err
			}
		}
		v, err := volume.Open(dev, volume.Options{Credential: cred, ReadOnly: c.ReadOnly, Memory: int(c.MemoryBytes), Log: slog.Default()})
		key.Erase()
		if err == nil {
			return v, nil
		}
		last = err
		if !errors.Is(err, volume.ErrWrongKey) {
			break
		}
	}
	if errors.Is(last, volume.ErrNotSealvol) {
		return nil, fmt.Errorf("%w: it holds %s", mounter.ErrForeign, what)
	}
	return nil, last
}

func format(dev *device.File, r crypto.Recipient, f mounter.Format) error {
	o := volume.FormatOptions{Recipient: r, RootMode: 0o2775} // setgid: fsGroup's OnRootMismatch then skips the walk
	if f.Suite != "" {
		s, err := crypto.ParseSuite(f.Suite)
		if err != nil {
			return err
		}
		o.Suite = s
	}
	return volume.Format(dev, o)
}

// engineError gives the engine's errors the kind that the mounter knows.
func engineError(err error) error {
	for _, e := range []struct{ from, to error }{
		{volume.ErrWrongKey, mounter.ErrWrongKey},
		{volume.ErrInUse, mounter.ErrBusy},
		{volume.ErrNotSealvol, mounter.ErrForeign},
		{volume.ErrNotEmpty, mounter.ErrForeign},
		{volume.ErrHeader, mounter.ErrDamaged},
		{volume.ErrForged, mounter.ErrDamaged},
		{volume.ErrTruncated, mounter.ErrDamaged},
		{volume.ErrNoRoot, mounter.ErrDamaged},
		{volume.ErrLogDamaged, mounter.ErrDamaged},
		{volume.ErrDamaged, mounter.ErrDamaged},
		{vfs.ErrCorrupt, mounter.ErrDamaged},
	} {
		if errors.Is(err, e.from) {
			return fmt.Errorf("%w: %w", e.to, err)
		}
	}
	return err
}

// volumeControl answers on the control socket.
type volumeControl struct {
	v   *volume.Volume
	dev *device.File
	c   mounter.ServeConfig

	stop     chan struct{}
	stopOnce sync.Once
	stopped  chan struct{} // closed when nothing is written any more; closeErr is set before
	closeErr error
}

func (h *volumeControl) Status(context.Context) (control.Status, error) {
	s := control.Status{Volume: h.c.Volume, PID: os.Getpid(), ReadOnly: h.c.ReadOnly}
	if err := h.v.Failed(); err != nil {
		s.ReadOnly = true
		s.Conditions = append(s.Conditions, control.Condition{Reason: "VolumeFailed",
			Message: "an error of the device made the volume read-only: " + err.Error()})
	}
	return s, nil
}

func (h *volumeControl) Stats(context.Context) (control.Stats, error) {
	st := h.v.StatFS()
	bytes := func(blocks uint64) int64 { return int64(blocks) * int64(st.BlockSize) }
	return control.Stats{TotalBytes: bytes(st.Blocks), UsedBytes: bytes(st.Blocks - st.BlocksFree), AvailableBytes: bytes(st.BlocksAvail),
		TotalInodes: int64(st.Inodes), UsedInodes: int64(st.Inodes - st.InodesFree), FreeInodes: int64(st.InodesFree)}, nil
}

// Grow uses the engine's when it has one.
func (h *volumeControl) Grow(context.Context) (int64, error) {
	g, ok := any(h.v).(interface{ Grow() (int64, error) })
	if !ok {
		return 0, errors.New("this version cannot grow a volume")
	}
	return g.Grow()
}

func (h *volumeControl) Sync(context.Context) error { return h.v.Sync(vfs.RootIno) }

func (h *volumeControl) Unmount(ctx context.Context) error {
	h.stopOnce.Do(func() { close(h.stop) })
	select {
	case <-h.stopped:
		return h.closeErr
	case <-ctx.Done():
		return ctx.Err()
	}
}
