package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/sealvol/sealvol/pkg/volume"
)

// anchorInterval is how often a mount that changes writes a new anchor.
const anchorInterval = 30 * time.Second

// maxAnchorFile bounds what is read of an anchor file, in bytes.
const maxAnchorFile = 4096

// readAnchor reads the anchor that a mount left. There is none (nil) before the
// first one: a file that does not exist.
func readAnchor(path string) (*volume.Anchor, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the anchor: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxAnchorFile+1))
	if err != nil {
		return nil, fmt.Errorf("read the anchor: %w", err)
	}
	var a volume.Anchor
	if len(b) > maxAnchorFile {
		err = errors.New("it is too long")
	} else {
		a, err = volume.ParseAnchor(b)
	}
	if err != nil {
		return nil, withHint(fmt.Errorf("read the anchor: %s: %w", path, err),
			"restore the file from a backup; without it an older state of the device can not be told from the newest")
	}
	return &a, nil
}

// existingAnchor is readAnchor for commands that only check: the file must be there.
func existingAnchor(path string) (*volume.Anchor, error) {
	if path == "" {
		return nil, nil
	}
	a, err := readAnchor(path)
	if err == nil && a == nil {
		err = fmt.Errorf("read the anchor: %w", &os.PathError{Op: "open", Path: path, Err: os.ErrNotExist})
	}
	return a, err
}

// writeAnchor replaces the file by one with a newer anchor: when it returns, that
// survives a crash, and at any time the file holds a whole one.
func writeAnchor(path string, a volume.Anchor) (err error) {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".anchor-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	defer f.Close()
	if _, err := f.Write(append(b, '\n')); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// anchorKeeper keeps the anchor of a mounted volume in a file.
type anchorKeeper struct {
	path string
	vol  *volume.Volume
	log  *slog.Logger
	last volume.Anchor // in the file
	stop chan struct{}
	done chan struct{}
}

// keepAnchor begins to write anchors: now, and while the volume changes.
func keepAnchor(path string, vol *volume.Volume, log *slog.Logger) *anchorKeeper {
	k := &anchorKeeper{path: path, vol: vol, log: log, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(k.done)
		t := time.NewTicker(anchorInterval)
		defer t.Stop()
		for {
			k.renew()
			select {
			case <-t.C:
			case <-k.stop:
				return
			}
		}
	}()
	return k
}

// renew has the volume offer an anchor, writes it, and then confirms it.
func (k *anchorKeeper) renew() {
	if k.vol.Failed() != nil {
		return
	}
	a, err := k.vol.OfferAnchor()
	if err == nil && a != k.last {
		err = k.write(a)
		if err == nil {
			err = k.vol.ConfirmAnchor(a)
		}
	}
	if err != nil && k.vol.Failed() == nil {
		k.log.Warn("the anchor is not up to date: an older state of the device would go unnoticed since the last one", "file", k.path, "error", err)
	}
}

func (k *anchorKeeper) write(a volume.Anchor) error {
	if err := writeAnchor(k.path, a); err != nil {
		return err
	}
	k.last = a
	return nil
}

// end stops writing, before the volume is closed.
func (k *anchorKeeper) end() {
	if k == nil {
		return
	}
	close(k.stop)
	<-k.done
}

// final writes the anchor of all that the volume holds, after it was closed.
func (k *anchorKeeper) final() error {
	if k == nil {
		return nil
	}
	a, ok := k.vol.LastAnchor()
	if !ok || a == k.last {
		return nil
	}
	if err := k.write(a); err != nil {
		return fmt.Errorf("write the anchor: %w", err)
	}
	return nil
}
