package mounter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter/control"
)

// Mount mounts a volume, or finds that it is mounted already. In that case, with ReplaceKey, it
// passes the keys to the server. It removes what a dead server left.
func (m *Mounter) Mount(ctx context.Context, r MountRequest) error {
	if err := r.check(); err != nil {
		return err
	}
	found, err := m.findOrMount(ctx, r)
	if err != nil || found == nil || !r.ReplaceKey || r.Keys.Empty() {
		return err
	}
	err = m.handKeys(ctx, found.ask, r.Keys)
	if err != nil && !errors.Is(err, control.ErrServer) && await(ctx, found.dead, time.Second) {
		_, err = m.findOrMount(ctx, r) // the server was just ending
	}
	return err
}

// findOrMount returns the server that it found, or nil if it started one.
func (m *Mounter) findOrMount(ctx context.Context, r MountRequest) (*process, error) {
	v, err := m.acquire(ctx, r.Volume)
	if err != nil {
		return nil, err
	}
	defer m.release(r.Volume, v)
	if v.rec != nil {
		if done, err := m.already(ctx, v, r); done || err != nil {
			return v.proc, err
		}
	}
	switch {
	case r.RequireRunning && v.rec == nil:
		return nil, ErrNotMounted
	case r.RequireRunning:
		return nil, ErrDead
	}
	return nil, m.mountAnew(ctx, v, r)
}

// mountAnew mounts a volume that no server serves. The caller holds its lock.
func (m *Mounter) mountAnew(ctx context.Context, v *volume, r MountRequest) error {
	before := v.rec
	if before != nil && (before.BlockBytes > 0) != (r.Block != nil) {
		return fmt.Errorf("%w: a volume is either a raw block device or a file system", ErrConflict)
	}
	if r.Keys.Empty() {
		return ErrNoKey
	}
	var loops []loopDev
	if v.rec != nil {
		if err := m.clear(ctx, v, keep); err != nil {
			return err
		}
		loops = before.Loops
	}
	if err := m.mount(ctx, v, r, &loops); err != nil {
		if before == nil {
			return err
		}
		before.Loops = loops
		// The record keeps saying that the server died, so that a later publish may try again.
		before.PID, before.Start, before.Running = 0, 0, false
		v.rec = before
		return errors.Join(err, before.save())
	}
	return nil
}

// already returns true if the recorded mount is as requested, and false if there is none.
func (m *Mounter) already(ctx context.Context, v *volume, r MountRequest) (bool, error) {
	if v.proc == nil || !v.proc.alive() {
		return false, nil
	}
	top, err := at(v.rec.fusePath())
	if err != nil {
		return false, err
	}
	if top != nil && top.Source == v.rec.Source && top.FSType == FSType {
		if v.rec.ReadOnly != r.ReadOnly || v.rec.Source != r.Source || v.rec.Target != r.Target || (v.rec.BlockBytes > 0) != (r.Block != nil) {
			return false, ErrConflict
		}
		done, err := m.complete(v.rec, r)
		if done || err != nil {
			return done, err
		}
		// The server was adopted in the middle of its start, or its device was only partly
		// released.
		err = m.finish(ctx, v, r)
		if err != nil && await(ctx, v.proc.dead, time.Second) {
			return false, nil // it was just ending, as a server does whose mounter died before telling it to serve
		}
		return true, err
	}
	published, err := m.published(v.rec)
	if err != nil {
		return false, err
	}
	if published {
		return false, fmt.Errorf("%w: its staging directory was unmounted, but the volume is still mounted elsewhere", ErrConflict)
	}
	return false, m.stop(ctx, v)
}

// complete tells whether a served volume has everything that was requested.
func (m *Mounter) complete(rec *record, r MountRequest) (bool, error) {
	if !rec.Running || r.Block == nil {
		return rec.Running, nil
	}
	top, err := at(rec.Target)
	if err != nil || top == nil || !isNodes(top, rec.Source) {
		return false, err
	}
	if !r.Block.ReadOnlyToo || rec.ReadOnly {
		return true, nil
	}
	devs, err := m.current(rec)
	return slices.ContainsFunc(devs, func(l loopDev) bool { return l.ReadOnly }), err
}

// free makes sure that nothing is mounted at a path. It removes a mount of the volume that an
// earlier mounter left whose state was lost.
func (m *Mounter) free(source, path string) error {
	if err := unmountLazily(source, path); err != nil {
		return err
	}
	if top, err := at(path); err != nil || top == nil {
		return err
	}
	return fmt.Errorf("%w: something else is mounted at the target", ErrConflict)
}

// mount starts a server and mounts. After a failure nothing is left, except loop devices that
// existed before.
func (m *Mounter) mount(ctx context.Context, v *volume, r MountRequest, loops *[]loopDev) (err error) {
	rec := &record{places: v.places, Version: stateVersion, Volume: r.Volume, Source: r.Source, Target: r.Target,
		Device: r.Device, ReadOnly: r.ReadOnly, Boot: bootID(), Loops: *loops}
	if r.Block != nil {
		rec.BlockBytes = r.Block.SizeBytes
	}
	for _, path := range []string{r.Target, rec.fusePath()} {
		if err := m.free(r.Source, path); err != nil {
			return err
		}
	}
	v.rec = rec
	defer func() {
		if err != nil {
			// Not ctx: clean up even if the caller is gone.
			err = errors.Join(err, m.clear(context.Background(), v, len(*loops) > 0))
			*loops = rec.Loops
		}
	}()
	m.opt.Hook("record starting")
	if err := v.rec.save(); err != nil {
		return err
	}
	if err := m.makeHidden(v.rec); err != nil {
		return err
	}
	m.opt.Hook("start server")
	p, h, err := m.opt.start(ctx, r, v.places)
	if err != nil {
		return err
	}
	v.proc = p
	m.watch(r.Volume, p)
	defer h.conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = h.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := h.expect("opened"); err != nil {
		return err
	}
	v.rec.PID, v.rec.Start = p.pid, p.start
	m.opt.Hook("record pid")
	if err := v.rec.save(); err != nil {
		return err
	}
	m.opt.Hook("mount")
	if err := p.withFuse(func(f *os.File) error { return mountFuse(f, r.Source, v.rec.fusePath(), r.ReadOnly, r.Block != nil) }); err != nil {
		return err
	}
	m.link(v.rec)
	m.opt.Hook("tell server")
	if err := sendLine(h.conn, step{Step: "mounted"}); err != nil {
		return fmt.Errorf("%w: %w", ErrServer, err)
	}
	if err := h.expect("serving"); err != nil {
		return err
	}
	tune(v.rec.fusePath())
	if err := m.finish(ctx, v, r); err != nil {
		return err
	}
	if w := v.worker; w != nil { // the server died while it ran
		go m.settle(context.WithoutCancel(ctx), w)
	}
	m.opt.Log.InfoContext(ctx, "mounted", "volume", r.Volume, "pid", p.pid, "readOnly", r.ReadOnly)
	return nil
}
