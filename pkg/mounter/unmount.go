package mounter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// What becomes of the record of a server that has ended, and of its loop devices, which pods may still have.
const (
	drop = false
	keep = true
)

// clear removes what a dead server left: its mounts, and its record.
func (m *Mounter) clear(ctx context.Context, v *volume, keepRecord bool) error {
	if v.proc != nil {
		if err := v.proc.stopHard(ctx, askTimeout); err != nil {
			return err
		}
	}
	if v.rec.BlockBytes > 0 && keepRecord {
		if err := m.findLoops(v.rec); err != nil {
			return err
		}
		m.opt.Hook("record loops")
		if err := v.rec.save(); err != nil {
			return err
		}
	} else if err := m.letGo(ctx, v.rec, true); err != nil {
		return err
	}
	m.opt.Hook("clear mount")
	if err := unmountLazily(v.rec.Source, v.rec.Target); err != nil {
		return err
	}
	if v.rec.BlockBytes > 0 {
		m.opt.Hook("clear hidden mount")
		if err := unmountLazily(v.rec.Source, v.rec.fusePath()); err != nil {
			return err
		}
		m.removeHidden(v)
	}
	m.opt.Hook("clear record")
	return m.forget(v, keepRecord)
}

// forget gives up a volume that nobody serves. The record may stay, until that of another server takes its place.
func (m *Mounter) forget(v *volume, keepRecord bool) error {
	if v.group != "" {
		// Empty once the server is gone.
		if err := os.Remove(v.group); err != nil && !errors.Is(err, fs.ErrNotExist) {
			m.opt.Log.Warn("cgroup not removed", "volume", v.rec.Volume, "error", err)
		}
	}
	if m.opt.RuntimeDir != "" {
		m.unlink(v)
	}
	if !keepRecord {
		if err := os.RemoveAll(v.dir); err != nil {
			return err
		}
	}
	v.rec, v.proc = nil, nil
	return nil
}

// Unmount takes a volume away: when it returns nil, everything is durable and no process has the
// device. ErrBusy if it is still mounted elsewhere, or does not come to an end in time; nothing is lost, repeat it.
func (m *Mounter) Unmount(ctx context.Context, r UnmountRequest) error {
	if err := checkTarget(r.Volume, r.Source, r.Target); err != nil {
		return err
	}
	v, err := m.acquire(ctx, r.Volume)
	if err != nil {
		return err
	}
	defer m.release(r.Volume, v)
	if v.rec == nil { // nothing serves it, or there is nothing
		if err := unmountLazily(r.Source, r.Target); err != nil {
			return err
		}
		top, err := at(v.hidden)
		if err != nil || top == nil || top.Source != r.Source {
			return err
		}
		v.rec = &record{places: v.places, Version: stateVersion, Volume: r.Volume, Source: r.Source, Target: r.Target, BlockBytes: RawAlign, Boot: bootID()}
		return m.clear(ctx, v, drop)
	}
	if v.rec.Target != r.Target {
		return fmt.Errorf("%w: it is mounted at another path", ErrConflict)
	}
	if v.proc == nil || !v.proc.alive() {
		return m.clear(ctx, v, drop)
	}
	published, err := m.published(v.rec)
	if err != nil {
		return err
	}
	if published {
		return fmt.Errorf("%w: still published", ErrBusy)
	}
	return m.stop(ctx, v)
}

// published tells whether a volume is mounted at another place than its own.
func (m *Mounter) published(r *record) (bool, error) {
	mounts, err := mountsOf(r.Source)
	return slices.ContainsFunc(mounts, func(p string) bool { return p != r.Target && p != r.fusePath() }), err
}

// stop unmounts and waits for the server to commit and end.
func (m *Mounter) stop(ctx context.Context, v *volume) error {
	p, ask := v.proc, v.proc.ask
	ctx, cancel := context.WithTimeout(ctx, m.opt.StopTimeout)
	defer cancel()
	m.opt.Hook("sync")
	// A failure here does not keep the volume: the server commits again at its end, and reports by its exit.
	syncCtx, cancelSync := context.WithTimeout(ctx, m.opt.StopTimeout/2)
	err := ask.Sync(syncCtx)
	cancelSync()
	if err != nil && p.alive() {
		m.opt.Log.WarnContext(ctx, "sync before unmount", "volume", v.rec.Volume, "error", err.Error())
		if err := m.killWedged(ctx, v); err != nil {
			return err
		}
	}
	if !p.alive() { // it died before, unasked: nothing more can be saved than what the log on the device has
		return m.clear(context.WithoutCancel(ctx), v, drop)
	}
	if err := m.letGo(ctx, v.rec, false); err != nil && p.alive() {
		return err
	}
	m.opt.Hook("unmount")
	if err := unmount(ctx, v.rec.fusePath()); err != nil && p.alive() {
		return err
	}
	m.opt.Hook("unmounted")
	// With its last mount the kernel ends the connection and the server comes to its end by itself. Mounts
	// in other namespaces (a container that is just going) keep it; then it is asked.
	if !await(ctx, p.dead, m.opt.StopTimeout/4) {
		// A server that ends may cut the conversation before it has answered.
		if err := ask.Unmount(ctx); err != nil && !await(ctx, p.dead, askTimeout) {
			return fmt.Errorf("%w: the mount server does not end: %w", ErrBusy, err)
		}
		if !await(ctx, p.dead, m.opt.StopTimeout/4) {
			return fmt.Errorf("%w: the mount server does not end", ErrBusy)
		}
	}
	exit := p.exitError()
	m.opt.Log.InfoContext(ctx, "unmounted", "volume", v.rec.Volume, "pid", p.pid)
	m.opt.Hook("forget")
	if err := m.clear(context.WithoutCancel(ctx), v, drop); err != nil {
		return err
	}
	if exit != nil {
		return fmt.Errorf("%w: at the end: %w", ErrServer, exit)
	}
	return nil
}

// killWedged ends a server that does not even answer from memory: nothing else would ever let the volume go. What
// was synced is on the device; the caller learns that the rest may be lost.
func (m *Mounter) killWedged(ctx context.Context, v *volume) error {
	askCtx, cancel := context.WithTimeout(ctx, m.opt.StopTimeout/4)
	defer cancel()
	if _, err := v.proc.ask.Status(askCtx); err == nil || !errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	m.opt.Log.ErrorContext(ctx, "mount server does not answer, killed", "volume", v.rec.Volume, "pid", v.proc.pid)
	if err := m.clear(context.WithoutCancel(ctx), v, drop); err != nil {
		return err
	}
	return fmt.Errorf("%w: it did not answer and was killed; what was not synced may be lost", ErrServer)
}
