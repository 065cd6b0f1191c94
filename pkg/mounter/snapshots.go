package mounter

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
	"github.com/sealvol/sealvol/pkg/requestid"
)

const (
	confineTimeout = 30 * time.Second // for a worker to start
	settleTimeout  = 30 * time.Second // for a mount server to delete local snapshots
	// A worker that is asked to end gets stopWait to do so, and is killed then.
	stopWait = 5 * time.Second
	killWait = 10 * time.Second
	// retryWait is between two attempts to ask a worker that runs for its result.
	retryWait = time.Second
	forEver   = math.MaxInt64
)

// StartSnapshot starts a worker that stores a snapshot of a mounted volume. secrets yields the
// tenant's secret and the keys of the snapshot (handover.Secrets); store is a socket to the store
// (package workerstore). Both stay the caller's. The worker has its keys when StartSnapshot returns.
// If a worker for the same snapshot runs, it gets the store, and goes on. If the last worker has
// stored this snapshot, nothing happens: SnapshotStatus has its result.
func (m *Mounter) StartSnapshot(ctx context.Context, r workerctl.Start, secrets, store *os.File) error {
	if err := r.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if secrets == nil || store == nil {
		return fmt.Errorf("%w: the request needs a pipe with secrets and a socket to the store", ErrInvalid)
	}
	w, s, server, err := m.launch(ctx, r, secrets, store)
	if err != nil || s == nil {
		return err
	}
	defer s.close()
	defer s.hand.Close()
	created, err := m.handOver(ctx, w, s, server)
	w.mu.Lock()
	w.starting = false
	w.mu.Unlock()
	if err != nil {
		as := workerctl.Stopped
		if created { // a local snapshot that nothing was stored of
			as = workerctl.Failed
		}
		// Not ctx: clean up even if the caller is gone.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWait+killWait)
		defer cancel()
		return errors.Join(err, w.end(ctx, as, "not started: "+clean(err.Error())))
	}
	m.opt.Log.InfoContext(ctx, "storing a snapshot", "volume", r.Volume, "snapshot", r.ID, "pid", w.pid)
	return nil
}

// launch starts the process, which waits for its keys. It returns no sockets if it has passed the
// store to a worker that runs.
func (m *Mounter) launch(ctx context.Context, r workerctl.Start, secrets, store *os.File) (*snapWorker, *workerSockets, control.Client, error) {
	none := control.Client{}
	v, err := m.acquire(ctx, r.Volume)
	if err != nil {
		return nil, nil, none, err
	}
	defer m.release(r.Volume, v)
	if v.rec == nil {
		return nil, nil, none, ErrNotMounted
	}
	if v.proc == nil || !v.proc.alive() {
		return nil, nil, none, ErrDead
	}
	if done, err := m.reuse(ctx, v, r.ID, store); done || err != nil {
		return nil, nil, none, err
	}
	if !m.takeWorker() {
		return nil, nil, none, fmt.Errorf("%w: %d snapshots are being stored on this node; try again when one of them has ended", ErrBusy, m.opt.MaxWorkers)
	}
	w, s, err := m.spawnWorker(v, r, secrets, store)
	if err != nil {
		m.giveWorker()
		return nil, nil, none, err
	}
	v.worker = w
	m.watchWorker(v, w)
	return w, s, v.proc.ask, nil
}

// reuse decides about the last worker of a volume, if there is one. done means that nothing is to be
// started: the snapshot is being stored, with the new connection, or is stored.
func (m *Mounter) reuse(ctx context.Context, v *volume, snapshot string, store *os.File) (done bool, err error) {
	w := v.worker
	if w == nil {
		return false, nil
	}
	if w.alive() && !w.hasEnded() {
		if w.start.ID != snapshot {
			return false, fmt.Errorf("%w: snapshot %s of the volume is being stored", ErrBusy, w.start.ID)
		}
		err := w.attach(ctx, store)
		if err == nil || !await(ctx, w.ended, askTimeout) { // otherwise it was just ending
			return true, err
		}
	}
	if w.start.ID == snapshot && await(ctx, w.ended, askTimeout) && w.outcome() == workerctl.Succeeded {
		return true, nil
	}
	return false, m.retire(ctx, v)
}

// spawnWorker writes the record and starts the process.
func (m *Mounter) spawnWorker(v *volume, r workerctl.Start, secrets, store *os.File) (*snapWorker, *workerSockets, error) {
	s, err := m.workerSockets(v, secrets, store)
	if err != nil {
		return nil, nil, err
	}
	w := newWorker(v, r)
	w.starting = true
	w.rec.Limits = workerctl.Limits{MemoryBytes: m.opt.WorkerMemoryBytes, UID: int(m.opt.WorkerUID)}
	m.opt.Hook("record worker")
	err = w.save()
	if err == nil {
		m.opt.Hook("start worker")
		err = m.opt.spawnWorker(w, v.workerGroup, s.theirs)
	}
	if err == nil {
		m.opt.Hook("record worker pid")
		if err = w.save(); err != nil {
			_ = w.stop(true)
			<-w.dead
		}
	}
	if err != nil {
		s.close()
		s.hand.Close()
		removeGroup(v.workerGroup)
		return nil, nil, errors.Join(err, w.forget())
	}
	return w, s, nil
}

func newWorker(v *volume, r workerctl.Start) *snapWorker {
	return &snapWorker{start: r, file: v.workerFile(), ask: control.Client{Path: v.workerControl()}, dead: make(chan struct{}), ended: make(chan struct{}),
		rec: workerRecord{Version: workerVersion, Start: r, Boot: bootID()}}
}

// handOver configures the worker, and lets the mount server send it keys. The caller does not hold
// the volume's lock, because a frozen volume may keep the mount server waiting.
// created says that there is a new local snapshot.
func (m *Mounter) handOver(ctx context.Context, w *snapWorker, s *workerSockets, server control.Client) (created bool, err error) {
	stop := context.AfterFunc(ctx, func() { _ = s.hand.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	cfg := workerctl.Config{Start: w.start, Limits: w.rec.Limits, RequestID: requestid.From(ctx)}
	if limitsData(cfg.Limits) {
		cfg.DataBytes = 2*cfg.Limits.MemoryBytes + 256<<20
	}
	for _, f := range s.theirs { // so that what the worker leaves open shows that it has ended
		f.Close()
	}
	s.theirs = nil
	if err := s.hand.SetDeadline(time.Now().Add(confineTimeout)); err != nil {
		return false, err
	}
	if err := sendLine(s.hand, cfg); err != nil {
		return false, fmt.Errorf("%w: configure the snapshot worker: %w", ErrServer, err)
	}
	in := bufio.NewReaderSize(s.hand, maxHandshake)
	if err := expectStep(in, workerctl.StepConfined); err != nil {
		return false, err
	}
	m.opt.Hook("hand over keys")
	args := workerctl.BeginArgs{ID: w.start.ID, Base: w.start.Base, Drop: w.start.Drop}
	var begun workerctl.Begun
	if err := server.Do(ctx, control.Request{Op: workerctl.OpBegin, Args: args, File: s.keys}, &begun); err != nil {
		if control.HasCode(err, control.CodeUnknown) {
			return false, fmt.Errorf("%w: it does not store snapshots, because it has an older version or serves format v1: %w", ErrServer, err)
		}
		return false, fmt.Errorf("%w: begin a snapshot: %w", ErrServer, err)
	}
	s.keys.Close()
	m.opt.Hook("keys handed over")
	err = s.hand.SetDeadline(time.Now().Add(confineTimeout))
	if err == nil {
		err = expectStep(in, workerctl.StepStarted)
	}
	return begun.Created, err
}

func expectStep(in *bufio.Reader, want string) error {
	var step workerctl.Step
	if err := receiveLine(in, &step); err != nil {
		return fmt.Errorf("%w: the snapshot worker did not send step %q: %w", ErrServer, want, err)
	}
	if step.Error != "" {
		return fmt.Errorf("%w: snapshot worker: %s", ErrServer, clean(step.Error))
	}
	if step.Step != want {
		return fmt.Errorf("%w: the snapshot worker sent step %q, want %q", ErrServer, clean(step.Step), want)
	}
	return nil
}

// attach passes a new connection to the store.
func (w *snapWorker) attach(ctx context.Context, store *os.File) error {
	if err := w.ask.Do(ctx, control.Request{Op: workerctl.OpStore, File: store}, nil); err != nil {
		return fmt.Errorf("%w: pass the store to the snapshot worker: %w", ErrServer, err)
	}
	return nil
}

// AttachStore gives the worker of a snapshot a new socket to the store, after the process that
// served the last one has ended.
func (m *Mounter) AttachStore(ctx context.Context, id, snapshot string, store *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if store == nil {
		return fmt.Errorf("%w: the request needs a socket to the store", ErrInvalid)
	}
	w, err := m.workerOf(ctx, id, snapshot)
	if err != nil {
		return err
	}
	if w == nil || w.hasEnded() {
		return ErrNoWorker
	}
	return w.attach(ctx, store)
}

// SnapshotStatus returns the state of the last job of a volume since it was mounted, or ErrNoWorker.
func (m *Mounter) SnapshotStatus(ctx context.Context, id string) (workerctl.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	w, err := m.workerOf(ctx, id, "")
	if err != nil {
		return workerctl.Status{}, err
	}
	if w == nil {
		return workerctl.Status{}, ErrNoWorker
	}
	return w.status(ctx)
}

// workerOf returns the worker of a volume for a stored snapshot, or for any if that is "".
func (m *Mounter) workerOf(ctx context.Context, id, snapshot string) (*snapWorker, error) {
	v, err := m.acquire(ctx, id)
	if err != nil {
		return nil, err
	}
	defer m.release(id, v)
	if v.rec == nil {
		return nil, ErrNotMounted
	}
	if w := v.worker; w != nil && (snapshot == "" || w.start.ID == snapshot) {
		return w, nil
	}
	return nil, nil
}

// CancelSnapshot ends the worker of a stored snapshot, if one runs, and deletes the local snapshot.
// It may be called for a snapshot whose worker has ended long ago. It does nothing if the snapshot
// was stored.
func (m *Mounter) CancelSnapshot(ctx context.Context, id, snapshot string) error {
	if err := workerctl.CheckID(snapshot); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	w, err := m.workerOf(ctx, id, snapshot)
	if err != nil {
		return err
	}
	if w != nil {
		if err := w.end(ctx, workerctl.Cancelled, "the snapshot was cancelled"); err != nil {
			return err
		}
		if st, err := w.status(ctx); err != nil || st.Outcome == workerctl.Succeeded {
			return err
		}
	}
	server, err := m.server(ctx, id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if err := server.Do(ctx, control.Request{Op: workerctl.OpEnd, Args: workerctl.EndArgs{ID: snapshot}}, nil); err != nil {
		return fmt.Errorf("%w: delete local snapshot %s: %w", ErrServer, workerctl.LocalName(snapshot), err)
	}
	return nil
}
