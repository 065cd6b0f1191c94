package mountserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/sealvol/sealvol/pkg/atomicfile"
	"github.com/sealvol/sealvol/pkg/volume"
)

// anchorInterval is how often a mount writes a new anchor while the volume changes.
const anchorInterval = 30 * time.Second

// maxAnchorFile is how many bytes of an anchor file are read at most.
const maxAnchorFile = 4096

// ErrAnchorFile means that the anchor file exists but does not contain an anchor.
var ErrAnchorFile = errors.New("the anchor file is damaged")

// ReadAnchor reads the anchor that a mount left in a file. It returns nil if the file does not
// exist, as before the first anchor.
func ReadAnchor(path string) (*volume.Anchor, error) {
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
		err = errors.New("the file is too long")
	} else {
		a, err = volume.ParseAnchor(b)
	}
	if err != nil {
		return nil, &marked{fmt.Errorf("read the anchor: %s: %w", path, err), ErrAnchorFile}
	}
	return &a, nil
}

// writeAnchor replaces an anchor file durably.
func writeAnchor(path string, a volume.Anchor) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(b, '\n'), atomicfile.Options{})
}

// anchorKeeper updates a file with the anchor of a mounted volume. Its methods may be called on
// nil.
type anchorKeeper struct {
	path string
	vol  *volume.Volume
	log  *slog.Logger
	last volume.Anchor // the anchor in the file
	stop chan struct{}
	done chan struct{}
}

// keepAnchor starts to write anchors: one now, and others while the volume changes.
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

// renew gets an anchor from the volume, writes it, and then confirms it to the volume.
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
		k.log.Warn("anchor not written: a rollback of the device to a state after the last written anchor would not be detected", "file", k.path, "error", err)
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

// final writes the anchor of the volume's last state, after the volume was closed.
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
