package mounter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
)

// takeWorker counts one more worker, unless there are too many.
func (m *Mounter) takeWorker() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.workers >= m.opt.MaxWorkers {
		return false
	}
	m.workers++
	return true
}

func (m *Mounter) giveWorker() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.workers--
}

// watchWorker waits for the result of a worker, and then for its end.
func (m *Mounter) watchWorker(v *volume, w *snapWorker) {
	id, group := w.start.Volume, v.workerGroup
	go func() {
		defer m.giveWorker()
		st := w.result()
		// It exits once it has answered. If it does not, it is of no more use.
		if !await(context.Background(), w.dead, stopWait) && st != nil {
			_ = w.stop(true)
		}
		<-w.dead
		removeGroup(group)
		if err := w.finish(st); err != nil {
			m.opt.Log.Warn("the outcome of a snapshot was not recorded", "volume", id, "snapshot", w.start.ID, "error", err)
		}
		m.logEnd(w)
		m.settle(context.Background(), w)
	}()
}

func (m *Mounter) logEnd(w *snapWorker) {
	w.mu.Lock()
	end := w.rec.End
	w.mu.Unlock()
	level := slog.LevelInfo
	if end.Outcome != workerctl.Succeeded {
		level = slog.LevelWarn
	}
	m.opt.Log.Log(context.Background(), level, "snapshot ended", "volume", w.start.Volume, "snapshot", w.start.ID, "outcome", string(end.Outcome), "message", end.Message)
}

// result waits for the result of a job. It returns nil if the process ends without one. A process
// ends right after it has answered, so its end must not prevent that the answer is read: the
// connection breaks behind the answer.
func (w *snapWorker) result() *workerctl.Status {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		if await(ctx, w.dead, forEver) && !await(ctx, ctx.Done(), askTimeout) {
			cancel()
		}
	}()
	for {
		var st workerctl.Status
		err := w.ask.Do(ctx, control.Request{Op: workerctl.OpWait}, &st)
		switch {
		case err == nil && st.Outcome != workerctl.Running:
			w.trim(&st)
			return &st
		case await(ctx, w.dead, retryWait): // otherwise try again
			return nil
		}
	}
}

// settle tells the mount server which local snapshots of a job that has ended are still needed. If
// no server runs, this is repeated when the volume is mounted again.
func (m *Mounter) settle(ctx context.Context, w *snapWorker) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	w.mu.Lock()
	end, done := w.rec.End, w.rec.Settled || w.gone
	w.mu.Unlock()
	if end == nil || done {
		return
	}
	args := workerctl.EndArgs{ID: w.start.ID, Keep: end.Outcome == workerctl.Succeeded || end.Outcome.Resumable()}
	if end.Outcome == workerctl.Succeeded {
		args.Drop = w.start.Base
	}
	m.opt.Hook("settle")
	// Not through Mounter.server, which waits for running operations on the volume.
	server := control.Client{Path: ControlPath(m.opt.StateDir, w.start.Volume)}
	if err := server.Do(ctx, control.Request{Op: workerctl.OpEnd, Args: args}, nil); err != nil {
		m.opt.Log.WarnContext(ctx, "local snapshots of a job were not deleted; this is repeated when the volume is mounted again", "volume", w.start.Volume, "snapshot", w.start.ID, "error", err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rec.Settled = true
	if err := w.save(); err != nil {
		m.opt.Log.Warn("the outcome of a snapshot was not recorded", "volume", w.start.Volume, "snapshot", w.start.ID, "error", err)
	}
}

// end ends a worker in bounded time, and waits until the outcome is known. as is the outcome of a
// job that this ends, and why its message.
func (w *snapWorker) end(ctx context.Context, as workerctl.Outcome, why string) error {
	w.mu.Lock()
	if w.rec.End == nil && w.rec.Stopping == "" {
		w.rec.Stopping, w.rec.Reason = as, why
		if err := w.save(); err != nil {
			w.mu.Unlock()
			return err
		}
	}
	w.mu.Unlock()
	if w.alive() {
		_ = w.stop(false) // it may just be ending
		if !await(ctx, w.dead, stopWait) {
			_ = w.stop(true)
		}
		if !await(context.WithoutCancel(ctx), w.dead, killWait) {
			return fmt.Errorf("%w: the snapshot worker (pid %d) does not exit", ErrBusy, w.pid)
		}
	}
	if !await(context.WithoutCancel(ctx), w.ended, askTimeout) {
		return fmt.Errorf("%w: the end of the snapshot worker was not recorded", ErrBusy)
	}
	return nil
}

// endWorker ends the worker of a volume that is about to be unmounted, so that nothing has its
// device open, and forgets it. The holder of the volume's lock calls it.
func (m *Mounter) endWorker(ctx context.Context, v *volume) error {
	if v.worker == nil {
		return nil
	}
	m.opt.Hook("end worker")
	if err := v.worker.end(ctx, workerctl.Interrupted, "the volume was unmounted. Mount it and start the snapshot again to continue it"); err != nil {
		return err
	}
	return m.retire(ctx, v)
}

// retire forgets a worker that has ended.
func (m *Mounter) retire(ctx context.Context, v *volume) error {
	w := v.worker
	if !await(ctx, w.dead, killWait) || !await(ctx, w.ended, askTimeout) {
		return fmt.Errorf("%w: the snapshot worker (pid %d) does not exit", ErrBusy, w.pid)
	}
	m.settle(ctx, w)
	if err := w.forget(); err != nil {
		return err
	}
	v.worker = nil
	return nil
}

// adoptWorker finds the worker of a record.
func (m *Mounter) adoptWorker(v *volume) error {
	r, err := loadWorker(v.workerFile())
	if err != nil || r == nil {
		return err
	}
	w := newWorker(v, r.Start)
	w.rec = *r
	if r.End != nil {
		close(w.dead)
		close(w.ended)
		v.worker = w
		go m.settle(context.Background(), w)
		return nil
	}
	pidfd, err := findProcess(r.PID, r.Begun)
	if err != nil {
		return fmt.Errorf("snapshot worker %d: %w", r.PID, err)
	}
	v.worker, w.pid = w, r.PID
	m.mu.Lock()
	m.workers++
	m.mu.Unlock()
	if pidfd < 0 {
		w.why = "it ended while no mounter ran"
		close(w.dead)
	} else {
		m.opt.Log.Info("snapshot worker adopted", "volume", r.Start.Volume, "snapshot", r.Start.ID, "pid", r.PID)
		w.adopt(pidfd, v.workerGroup)
	}
	m.watchWorker(v, w)
	return nil
}

// adopt takes over a process that an earlier mounter started. It owns pidfd.
func (w *snapWorker) adopt(pidfd int, group string) {
	w.stop = func(kill bool) error {
		s := unix.SIGTERM
		if kill {
			s = unix.SIGKILL
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if pidfd < 0 {
			return nil
		}
		return unix.PidfdSendSignal(pidfd, s, nil, 0)
	}
	go func(fd int) {
		waitExit(fd)
		w.mu.Lock()
		unix.Close(fd)
		pidfd = -1
		if w.why = "its exit status is unknown, because it was started by an earlier mounter"; oomKilled(group) {
			w.why = "the kernel killed it, because it needed more memory than its cgroup has"
		}
		w.mu.Unlock()
		close(w.dead)
	}(pidfd)
}

// killOrphan kills the worker of a volume that is not mounted.
func (m *Mounter) killOrphan(dir string) {
	p := places{dir: dir}
	r, err := loadWorker(p.workerFile())
	if err != nil || r == nil || r.End != nil {
		return
	}
	if pidfd, err := findProcess(r.PID, r.Begun); err == nil && pidfd >= 0 {
		if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err == nil {
			waitExit(pidfd)
		}
		unix.Close(pidfd)
	}
	removeGroup(m.opt.places(r.Start.Volume).workerGroup)
}

// removeGroup removes the cgroup of a worker that has ended.
func removeGroup(group string) {
	if group == "" {
		return
	}
	for range 50 { // the kernel may take a moment
		if err := os.Remove(group); err == nil || errors.Is(err, fs.ErrNotExist) {
			return
		}
		t := time.NewTimer(10 * time.Millisecond)
		<-t.C
	}
}
