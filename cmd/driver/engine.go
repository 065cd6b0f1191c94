package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
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
	err = serveOpen(ctx, v, c)
	return errors.Join(err, v.Close()) // a volume that failed is closed all the same
}

func serveOpen(ctx context.Context, v *volume.Volume, c mounter.ServeConfig) error {
	var served vfs.FS = v
	if c.Block {
		served = &roomy{FS: v}
	}
	srv, err := fusefs.NewServer(fusefs.Options{FS: served, Device: c.Fuse, ReadOnly: c.ReadOnly, Logger: slog.Default()})
	if err != nil {
		return err
	}
	h := &ending{stop: make(chan struct{}), stopped: make(chan struct{})}
	defer close(h.stopped)
	ctl := &volumectl.Server{Volume: v, Name: c.Volume, ReadOnly: c.ReadOnly, End: h.end}
	if err := c.Ready(ctx, ctl.Mux()); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve() }()
	ready := srv.Ready()
	for {
		select {
		case <-ready:
			ready = nil
			c.Serving()
		case err := <-ended:
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
	var instance crypto.UUID
	if c.Instance != "" {
		var err error
		if instance, err = crypto.ParseUUID(c.Instance); err != nil {
			return nil, fmt.Errorf("%w: instance", mounter.ErrInvalid)
		}
	}
	anchor, err := parseAnchor(c.Anchor)
	if err != nil {
		return nil, err
	}
	keys := [][]byte{c.Keys.KEK()}
	if p := c.Keys.Previous(); p != nil {
		keys = append(keys, p)
	}
	blank, what, err := volume.IsBlank(dev)
	if err != nil {
		return nil, err
	}
	if blank && anchor != nil {
		return nil, fmt.Errorf("%w: it is blank, and volume %v is anchored at generation %d", mounter.ErrRolledBack, anchor.Volume, anchor.Generation)
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
		v, err := volume.Open(dev, volume.Options{Credential: cred, ReadOnly: c.ReadOnly, Memory: int(c.MemoryBytes), Instance: instance, Anchor: anchor, Log: slog.Default()})
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

func parseAnchor(s string) (*volume.Anchor, error) {
	if s == "" {
		return nil, nil
	}
	a, err := volume.ParseAnchor([]byte(s))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", mounter.ErrInvalid, err)
	}
	return &a, nil
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
		{volume.ErrRolledBack, mounter.ErrRolledBack}, // these may wrap others
		{volume.ErrForked, mounter.ErrRolledBack},
		{volume.ErrOtherVolume, mounter.ErrRolledBack},
		{volume.ErrWrongKey, mounter.ErrWrongKey},
		{volume.ErrInUse, mounter.ErrBusy},
		{volume.ErrNotSealvol, mounter.ErrForeign},
		{volume.ErrNotEmpty, mounter.ErrForeign},
		{volume.ErrHeader, mounter.ErrDamaged},
		{volume.ErrForged, mounter.ErrDamaged},
		{volume.ErrTwoRoots, mounter.ErrDamaged},
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

// ending is how a caller of the control socket ends serving.
type ending struct {
	stop     chan struct{}
	stopOnce sync.Once
	stopped  chan struct{} // closed when nothing is written any more; closeErr is set before
	closeErr error
}

func (e *ending) end(ctx context.Context) error {
	e.stopOnce.Do(func() { close(e.stop) })
	select {
	case <-e.stopped:
	case <-ctx.Done(): // the caller went away, or serving ended
		select {
		case <-e.stopped:
		default:
			return ctx.Err()
		}
	}
	return e.closeErr
}
