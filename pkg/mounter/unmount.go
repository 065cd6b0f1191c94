package mounter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// What happens to the record of a server that has ended, and to its loop devices, which pods may
// still use.
const (
	drop = false
	keep = true
)

// clear removes what a dead server left: its mounts and its record.
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

// forget drops a volume that no server serves. The record may stay until that of another server
// replaces it.
func (m *Mounter) forget(v *volume, keepRecord bool) error {
	if v.group != "" {
		// The cgroup is empty once the server is gone.
		if err := os.Remove(v.group); err != nil && !errors.Is(err, fs.ErrNotExist) {
			m.opt.Log.Warn("cgroup not removed", "volume", v.rec.Volume, "error", err)
		}
	}
	if m.opt.RuntimeDir != "" {
		m.unlink(v)
	}
	if !keepRecord {
		if err := m.removeState(v); err != nil {
			return err
		}
	}
	v.rec, v.proc = nil, nil
	return nil
}

// removeState removes the record of a volume. The worker's record stays if there is a worker: it goes
// on when its server has died and mounting the volume again has failed.
func (m *Mounter) removeState(v *volume) error {
	if v.worker == nil {
		return os.RemoveAll(v.dir)
	}
	for _, name := range []string{filepath.Join(v.dir, "state.json"), v.control} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Unmount unmounts a volume. A snapshot that is being stored is interrupted; it can be continued
// after the next mount. When Unmount returns nil, everything is durable and no process has the
// device open. ErrBusy means that the volume is still mounted elsewhere, or that the server did not
// end in time. Nothing is lost then; call Unmount again.
func (m *Mounter) Unmount(ctx context.Context, r UnmountRequest) error {
	if err := checkTarget(r.Volume, r.Source, r.Target); err != nil {
		return err
	}
	v, err := m.acquire(ctx, r.Volume)
	if err != nil {
		return err
	}
	defer m.release(r.Volume, v)
	if v.rec == nil { // either nothing serves it, or it does not exist
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
		return fmt.Errorf("%w: the volume is mounted at another path", ErrConflict)
	}
	if v.proc == nil || !v.proc.alive() {
		if err := m.endWorker(ctx, v); err != nil {
			return err
		}
		return m.clear(ctx, v, drop)
	}
	published, err := m.published(v.rec)
	if err != nil {
		return err
	}
	if published {
		return fmt.Errorf("%w: it is still published", ErrBusy)
	}
	if err := m.endWorker(ctx, v); err != nil {
		return err
	}
	return m.stop(ctx, v)
}

// published tells whether a volume is mounted anywhere except at its own place.
func (m *Mounter) published(r *record) (bool, error) {
	mounts, err := mountsOf(r.Source)
	return slices.ContainsFunc(mounts, func(p string) bool { return p != r.Target && p != r.fusePath() }), err
}

// stop unmounts, and waits until the server has committed and ended.
func (m *Mounter) stop(ctx context.Context, v *volume) error {
	p, ask := v.proc, v.proc.ask
	ctx, cancel := context.WithTimeout(ctx, m.opt.StopTimeout)
	defer cancel()
	m.opt.Hook("sync")
	// A failure here does not stop the unmount: the server commits again when it ends, and its exit
	// status reports the result.
	syncCtx, cancelSync := context.WithTimeout(ctx, m.opt.StopTimeout/2)
	err := ask.Sync(syncCtx)
	cancelSync()
	if err != nil && p.alive() {
		m.opt.Log.WarnContext(ctx, "sync before unmount failed; the mount server tries again when it ends", "volume", v.rec.Volume, "error", err.Error())
		if err := m.killWedged(ctx, v); err != nil {
			return err
		}
	}
	if !p.alive() { // it died earlier: only what the log on the device has can be saved
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
	// When its last mount goes, the kernel ends the connection, and the server ends. Mounts in
	// other namespaces (of a container that is just ending) keep the connection; then ask the
	// server.
	if !await(ctx, p.dead, m.opt.StopTimeout/4) {
		// A server that ends may close the connection before it has answered.
		if err := ask.Unmount(ctx); err != nil && !await(ctx, p.dead, askTimeout) {
			return fmt.Errorf("%w: the mount server does not exit: %w", ErrBusy, err)
		}
		if !await(ctx, p.dead, m.opt.StopTimeout/4) {
			return fmt.Errorf("%w: the mount server does not exit", ErrBusy)
		}
	}
	exit := p.exitError()
	m.opt.Log.InfoContext(ctx, "unmounted", "volume", v.rec.Volume, "pid", p.pid)
	m.opt.Hook("forget")
	if err := m.clear(context.WithoutCancel(ctx), v, drop); err != nil {
		return err
	}
	if exit != nil {
		return fmt.Errorf("%w: it exited with an error: %w", ErrServer, exit)
	}
	return nil
}

// killWedged kills a server that does not even answer from memory, because otherwise the volume
// could never be unmounted. Synced data is on the device; the caller learns that the rest may be
// lost.
func (m *Mounter) killWedged(ctx context.Context, v *volume) error {
	askCtx, cancel := context.WithTimeout(ctx, m.opt.StopTimeout/4)
	defer cancel()
	if _, err := v.proc.ask.Status(askCtx); err == nil || !errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	m.opt.Log.ErrorContext(ctx, "mount server killed because it does not answer: writes that were not synced may be lost", "volume", v.rec.Volume, "pid", v.proc.pid)
	if err := m.clear(context.WithoutCancel(ctx), v, drop); err != nil {
		return err
	}
	return fmt.Errorf("%w: it did not answer and was killed; writes that were not synced may be lost", ErrServer)
}
