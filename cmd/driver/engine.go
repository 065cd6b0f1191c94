package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
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
	v, err := openVolume(ctx, dev, c)
	if err != nil {
		return engineError(err)
	}
	err = serveOpen(ctx, v, dev, c)
	return errors.Join(err, v.Close()) // a volume that failed is closed all the same
}

func serveOpen(ctx context.Context, v *volume.Volume, dev *device.File, c mounter.ServeConfig) error {
	var served vfs.FS = v
	if c.Block {
		served = &roomy{FS: v}
	}
	var hurt damage
	srv, err := fusefs.NewServer(fusefs.Options{FS: served, Device: c.Fuse, ReadOnly: c.ReadOnly, Logger: slog.Default(), Damaged: hurt.note})
	if err != nil {
		return err
	}
	h := &ending{stop: make(chan struct{}), stopped: make(chan struct{})}
	defer close(h.stopped)
	ctl := &volumectl.Server{Volume: v, Name: c.Volume, ReadOnly: c.ReadOnly, LogLevel: &logLevel, Mounted: srv, Conditions: func() []control.Condition { return append(gone(dev), hurt.conditions()...) }, End: h.end}
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
func openVolume(ctx context.Context, dev *device.File, c mounter.ServeConfig) (*volume.Volume, error) {
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
	keys, err := credentials(c.Keys)
	if err != nil {
		return nil, err
	}
	defer eraseAll(keys)
	what, err := formatOnce(dev, keys[0], anchor, c)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		var v *volume.Volume
		v, err = volume.Open(dev, volume.Options{Credential: k, ReadOnly: c.ReadOnly, Memory: int(c.MemoryBytes), Instance: instance, Own: c.Own, Anchor: anchor, Log: slog.Default()})
		if err == nil {
			takeKeys(ctx, v, c.ReadOnly, keys)
			return v, nil
		}
		if !errors.Is(err, volume.ErrWrongKey) {
			break
		}
	}
	if errors.Is(err, volume.ErrNotSealvol) {
		return nil, fmt.Errorf("%w: it holds %s", mounter.ErrForeign, what)
	}
	if errors.Is(err, volume.ErrCopy) {
		return nil, fmt.Errorf("%w. If it is to be a volume of its own, say so: set "+copyAttribute+" in the volume attributes of its PersistentVolume to the handle of the volume that it was copied from", err)
	}
	return nil, err
}

// copyAttribute says of a volume that it is a copy; docs/csi.md.
const copyAttribute = "keyVolume"

// kek is a key-encryption key.
type kek interface {
	crypto.Credential
	crypto.Recipient
}

// credentials are the current key and, if there is one, the one before. The keys they are made of are cleared.
func credentials(k mounter.Keys) (list []kek, err error) {
	for _, raw := range [][]byte{k.KEK(), k.Previous()} {
		if raw == nil {
			continue
		}
		key, err := crypto.NewKey(raw) // clears raw
		if err != nil {
			eraseAll(list)
			return nil, err
		}
		list = append(list, crypto.SecretCredential(key))
	}
	return list, nil
}

func eraseAll(keys []kek) {
	for _, k := range keys {
		k.Erase()
	}
}

// takeKeys has the current key open the volume, and the one before no longer. A volume that is open is served all the same: each later
// publication tries again.
func takeKeys(ctx context.Context, v *volume.Volume, readOnly bool, keys []kek) {
	set := &volumectl.KeySet{New: &volume.Key{Recipient: keys[0], Credential: keys[0]}}
	for _, k := range keys[1:] {
		set.Old = append(set.Old, k)
	}
	if c, err := volumectl.CurrentKey(ctx, v, readOnly, set); err != nil {
		slog.Error("the volume's key was not replaced", "volume", v.ID().String(), "error", err)
	} else if c.Added || len(c.Removed) > 0 {
		slog.Info("the volume's key was replaced", "volume", v.ID().String(), "slot", c.Slot, "removed", c.Removed)
	}
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

// formatOnce formats a device that holds nothing, or what a format has left that was cut off, if it
// may; otherwise it says what it holds.
func formatOnce(dev *device.File, r crypto.Recipient, anchor *volume.Anchor, c mounter.ServeConfig) (what string, err error) {
	blank, what, err := volume.IsBlank(dev)
	if err == nil && !blank && c.Format != nil && c.Format.Again {
		blank, err = volume.IsUnfinished(dev)
	}
	switch {
	case err != nil || !blank:
		return what, err
	case anchor != nil:
		return what, fmt.Errorf("%w: it is blank, and volume %v is anchored at generation %d", mounter.ErrRolledBack, anchor.Volume, anchor.Generation)
	case c.Format == nil || c.ReadOnly:
		return what, mounter.ErrBlank
	}
	return what, format(dev, r, *c.Format)
}

func format(dev *device.File, r crypto.Recipient, f mounter.Format) error {
	// Force: it was looked at, and nobody else has it. Setgid: fsGroup's OnRootMismatch then skips
	// the walk.
	o := volume.FormatOptions{Recipient: r, RootMode: 0o2775, Force: true}
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
		{volume.ErrCopy, mounter.ErrCopy},
		{volume.ErrWrongKey, mounter.ErrWrongKey},
		{volume.ErrInUse, mounter.ErrBusy},
		{volume.ErrNotSealvol, mounter.ErrForeign},
		{volume.ErrNotEmpty, mounter.ErrForeign},
		{volume.ErrShredded, mounter.ErrDamaged},
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

// gone tells of a block device that was taken away: the kernel says that it has no bytes any more (block/genhd.c, blk_mark_disk_dead). An idle volume
// would not notice.
func gone(dev *device.File) []control.Condition {
	if n, err := dev.Size(); !dev.IsBlock() || err == nil && n > 0 {
		return nil
	}
	return []control.Condition{{Inaccessible: true, Reason: "DeviceGone",
		Message: "the volume's device was taken away while it was mounted; what was synced is on it: attach it again, and restart the pods, so that it is staged anew"}}
}

// damage is what was met of it since the volume was mounted.
type damage struct {
	count atomic.Int64
	ino   atomic.Uint64 // the last
}

func (d *damage) note(ino vfs.Ino) {
	d.ino.Store(uint64(ino))
	d.count.Add(1)
}

func (d *damage) conditions() []control.Condition {
	if d.count.Load() == 0 {
		return nil
	}
	// Not how often: a text that changes all the time is no news.
	return []control.Condition{{Lost: true, Reason: "DamagedData",
		Message: fmt.Sprintf("data of the volume is damaged and gives I/O errors, last of inode %d; all else can be read: sealvol scrub or fsck names the files, restore these", d.ino.Load())}}
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
