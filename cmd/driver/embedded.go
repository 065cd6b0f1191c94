package main

import (
	"context"
	"errors"
	"sync"

	"github.com/sealvol/sealvol/pkg/csi"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
)

// embedded is a mounter that this process starts, and restarts when it has died. The new mounter
// adopts the mount servers of the old one.
type embedded struct {
	mounter.Client
	start func(context.Context) (mounter.Client, error)
	mu    sync.Mutex // guards starting
}

var _ csi.Mounter = (*embedded)(nil)

// again calls f, and calls it once more if no mounter answered and one could be started. All calls
// may be repeated.
func again[T any](ctx context.Context, e *embedded, f func() (T, error)) (T, error) {
	v, err := f()
	if !errors.Is(err, mounter.ErrUnreachable) {
		return v, err
	}
	e.mu.Lock()
	_, serr := e.start(ctx)
	e.mu.Unlock()
	if serr != nil {
		return v, errors.Join(err, serr)
	}
	return f()
}

func (e *embedded) Mount(ctx context.Context, r mounter.MountRequest) error {
	_, err := again(ctx, e, func() (struct{}, error) { return struct{}{}, e.Client.Mount(ctx, r) })
	return err
}

func (e *embedded) Unmount(ctx context.Context, r mounter.UnmountRequest) error {
	_, err := again(ctx, e, func() (struct{}, error) { return struct{}{}, e.Client.Unmount(ctx, r) })
	return err
}

func (e *embedded) CheckKeys(ctx context.Context, volume string, k mounter.Keys) error {
	_, err := again(ctx, e, func() (struct{}, error) { return struct{}{}, e.Client.CheckKeys(ctx, volume, k) })
	return err
}

func (e *embedded) Grow(ctx context.Context, volume string) (int64, error) {
	return again(ctx, e, func() (int64, error) { return e.Client.Grow(ctx, volume) })
}

func (e *embedded) Stats(ctx context.Context, volume string) (control.Stats, error) {
	return again(ctx, e, func() (control.Stats, error) { return e.Client.Stats(ctx, volume) })
}

func (e *embedded) Health(ctx context.Context, volume string) (mounter.Info, error) {
	return again(ctx, e, func() (mounter.Info, error) { return e.Client.Health(ctx, volume) })
}

func (e *embedded) Ping(ctx context.Context) error {
	_, err := again(ctx, e, func() (struct{}, error) { return struct{}{}, e.Client.Ping(ctx) })
	return err
}
