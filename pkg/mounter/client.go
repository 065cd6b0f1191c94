package mounter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
	"github.com/sealvol/sealvol/pkg/requestid"
)

// Client calls the mounter that listens at Socket.
type Client struct{ Socket string }

func (c Client) call(ctx context.Context, in call, secret []byte, files ...*os.File) (reply, error) {
	conn, err := control.DialSocket(ctx, c.Socket)
	if err != nil {
		return reply{}, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var out reply
	err = writeFrame(&fileWriter{conn, files}, in, envelope{RequestID: requestid.From(ctx)}, secret)
	if err == nil {
		_, _, err = readFrame(conn, &out)
	}
	if ctx.Err() != nil {
		return reply{}, ctx.Err()
	}
	if err != nil {
		return reply{}, fmt.Errorf("%w: %w", ErrUnreachable, err) // the mounter ended in the middle of the call; the caller retries
	}
	return out, out.Error.err()
}

// Mount calls Mounter.Mount.
func (c Client) Mount(ctx context.Context, r MountRequest) error {
	raw := r.Keys.raw()
	defer clear(raw)
	_, err := c.call(ctx, call{Op: "mount", Mount: &r}, raw)
	return err
}

// Unmount calls Mounter.Unmount.
func (c Client) Unmount(ctx context.Context, r UnmountRequest) error {
	_, err := c.call(ctx, call{Op: "unmount", Unmount: &r}, nil)
	return err
}

// CheckKeys calls Mounter.CheckKeys. A mounter of a version without this request returns
// ErrInvalid.
func (c Client) CheckKeys(ctx context.Context, volume string, k Keys) error {
	raw := k.raw()
	defer clear(raw)
	_, err := c.call(ctx, call{Op: "check-keys", Volume: volume}, raw)
	return err
}

// Grow calls Mounter.Grow.
func (c Client) Grow(ctx context.Context, volume string) (int64, error) {
	r, err := c.call(ctx, call{Op: "grow", Volume: volume}, nil)
	return r.SizeBytes, err
}

// Stats calls Mounter.Stats.
func (c Client) Stats(ctx context.Context, volume string) (control.Stats, error) {
	r, err := c.call(ctx, call{Op: "stats", Volume: volume}, nil)
	if err == nil && r.Stats == nil {
		err = errors.New("the mounter sent no statistics")
	}
	if err != nil {
		return control.Stats{}, err
	}
	return *r.Stats, nil
}

// Health calls Mounter.Health.
func (c Client) Health(ctx context.Context, volume string) (Info, error) {
	r, err := c.call(ctx, call{Op: "health", Volume: volume}, nil)
	if err == nil && r.Health == nil {
		err = errors.New("the mounter sent no health")
	}
	if err != nil {
		return Info{}, err
	}
	return *r.Health, nil
}

// List calls Mounter.List.
func (c Client) List(ctx context.Context) ([]Info, error) {
	r, err := c.call(ctx, call{Op: "list"}, nil)
	return r.List, err
}

// StartSnapshot calls Mounter.StartSnapshot. A mounter of a version without stored snapshots returns
// ErrInvalid.
func (c Client) StartSnapshot(ctx context.Context, r workerctl.Start, secrets, store *os.File) error {
	_, err := c.call(ctx, call{Op: "snapshot-start", Start: &r}, nil, secrets, store)
	return err
}

// SnapshotStatus calls Mounter.SnapshotStatus.
func (c Client) SnapshotStatus(ctx context.Context, volume string) (workerctl.Status, error) {
	r, err := c.call(ctx, call{Op: "snapshot-status", Volume: volume}, nil)
	if err == nil && r.Job == nil {
		err = errors.New("the mounter sent no status")
	}
	if err != nil {
		return workerctl.Status{}, err
	}
	return *r.Job, nil
}

// CancelSnapshot calls Mounter.CancelSnapshot.
func (c Client) CancelSnapshot(ctx context.Context, volume, snapshot string) error {
	_, err := c.call(ctx, call{Op: "snapshot-cancel", Volume: volume, Snapshot: snapshot}, nil)
	return err
}

// AttachStore calls Mounter.AttachStore.
func (c Client) AttachStore(ctx context.Context, volume, snapshot string, store *os.File) error {
	_, err := c.call(ctx, call{Op: "snapshot-store", Volume: volume, Snapshot: snapshot}, nil, store)
	return err
}

// Quit asks the mounter to end if it has no volume. It returns whether the mounter ends.
func (c Client) Quit(ctx context.Context) (bool, error) {
	r, err := c.call(ctx, call{Op: "quit"}, nil)
	return r.Idle, err
}

// Ping tells whether the mounter answers.
func (c Client) Ping(ctx context.Context) error {
	_, err := c.call(ctx, call{Op: "ping"}, nil)
	return err
}

// WaitUp waits until a mounter answers, until ctx ends, or until gone is closed; gone may be nil.
func (c Client) WaitUp(ctx context.Context, gone <-chan struct{}) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := c.Ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-gone:
			return fmt.Errorf("the mounter ended right after its start: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}
