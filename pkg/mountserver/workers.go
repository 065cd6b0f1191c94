package mountserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/handover"
	"github.com/sealvol/sealvol/pkg/mounter/pacing"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
)

const (
	// sendTimeout bounds how long a worker may take to read its keys.
	sendTimeout = 30 * time.Second
)

// workers are the processes that store snapshots of the volume (package worker). Each holds the
// local snapshots that it reads for as long as its end of the socket pair is open.
type workers struct {
	mu      sync.Mutex
	all     map[string]*workerEnd // by identity of the stored snapshot; guarded by mu
	ended   bool                  // guarded by mu
	opening sync.WaitGroup        // Add is called under mu
}

// workerEnd is the server's end of a socket pair to a worker.
type workerEnd struct {
	conn net.Conn
	free []func()      // allow the local snapshots to be deleted
	done chan struct{} // closed when they are
}

// begin announces that a worker is about to get keys, unless the volume is closing. The caller calls
// opening.Done.
func (w *workers) begin() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return false
	}
	w.opening.Add(1)
	return true
}

// add registers a worker, unless the volume is closing, and returns the one that it replaces.
func (w *workers) add(id string, e *workerEnd) (before *workerEnd, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return nil, false
	}
	if w.all == nil {
		w.all = map[string]*workerEnd{}
	}
	before = w.all[id]
	w.all[id] = e
	return before, true
}

// remove drops a worker.
func (w *workers) remove(id string, e *workerEnd) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all[id] == e {
		delete(w.all, id)
	}
}

// get returns the worker of a stored snapshot, or nil.
func (w *workers) get(id string) *workerEnd {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all[id]
}

// end releases all local snapshots, because the volume is closing. The workers go on: what they read
// stays on the device.
func (w *workers) end(thaw func()) {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	thaw() // one that is about to begin may wait for the end of a freeze
	w.opening.Wait()
	w.mu.Lock()
	left := make([]*workerEnd, 0, len(w.all))
	for _, e := range w.all {
		left = append(left, e)
	}
	w.mu.Unlock()
	for _, e := range left {
		e.end()
	}
}

// end closes the connection, and waits until the local snapshots are released.
func (e *workerEnd) end() {
	e.conn.Close()
	<-e.done
}

// addWorkers adds the requests about snapshot workers. One of them hands out the data keys, so only
// servers that a mounter started answer them: their control socket is in a directory that only root
// can enter.
func (s *Server) addWorkers(m control.Mux) {
	m[workerctl.OpBegin] = func(ctx context.Context, c *control.Call) (any, error) {
		var a workerctl.BeginArgs
		if err := c.Args(&a); err != nil {
			return nil, err
		}
		b, err := s.beginWorker(ctx, a, c.File())
		return b, volumectl.SnapshotError(err)
	}
	m[workerctl.OpEnd] = func(ctx context.Context, c *control.Call) (any, error) {
		var a workerctl.EndArgs
		if err := c.Args(&a); err != nil {
			return nil, err
		}
		return nil, volumectl.SnapshotError(s.endWorker(ctx, a))
	}
}

// beginWorker makes the local snapshot of a job, and sends a worker what it needs to read it.
func (s *Server) beginWorker(ctx context.Context, a workerctl.BeginArgs, socket *os.File) (b workerctl.Begun, err error) {
	start := workerctl.Start{ID: a.ID, Base: a.Base, Drop: a.Drop}
	if err := start.Check(); err != nil {
		return b, control.WithCode(control.CodeMalformed, err)
	}
	if socket == nil {
		return b, control.WithCode(control.CodeMalformed, errors.New("the request needs a socket to the worker"))
	}
	if !s.workers.begin() {
		return b, errEnding
	}
	defer s.workers.opening.Done()
	conn, err := net.FileConn(socket)
	if err != nil {
		return b, fmt.Errorf("socket to the snapshot worker: %w", err)
	}
	for _, id := range a.Drop {
		if err := s.deleteLocal(id); err != nil {
			s.log.WarnContext(ctx, "local snapshot not deleted; it keeps space until it is", "snapshot", workerctl.LocalName(id), "error", err)
		}
	}
	e := &workerEnd{conn: conn, done: make(chan struct{})}
	b, err = s.serveWorker(ctx, a, e)
	if err != nil {
		conn.Close()
		for _, free := range e.free {
			free()
		}
		if b.Created { // nobody knows of it
			err = errors.Join(err, s.deleteLocal(a.ID))
		}
		return workerctl.Begun{}, err
	}
	return b, nil
}

// serveWorker takes hold of the local snapshots, sends the keys, and registers the worker.
func (s *Server) serveWorker(ctx context.Context, a workerctl.BeginArgs, e *workerEnd) (b workerctl.Begun, err error) {
	_, err = s.vol.CreateSnapshot(workerctl.LocalName(a.ID))
	if b.Created = err == nil; err != nil && !errors.Is(err, volume.ErrSnapshotExists) {
		return b, err
	}
	// Its caller may have given up while the volume was frozen.
	if err := context.Cause(ctx); err != nil {
		return b, err
	}
	var v handover.Volume
	defer v.Erase()
	if v.Source, err = s.holdLocal(a.ID, e); err != nil {
		return b, err
	}
	if a.Base != "" {
		base, err := s.holdLocal(a.Base, e)
		switch {
		case err == nil:
			v.Base, b.Base = &base, true
		case !errors.Is(err, volume.ErrNoSnapshot):
			s.log.WarnContext(ctx, "the base of a stored snapshot cannot be read: the snapshot will be a full one", "snapshot", workerctl.LocalName(a.Base), "error", err)
		}
	}
	if v.Keys, err = s.vol.PinnedKeys(); err != nil {
		return b, err
	}
	if err = e.conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err == nil {
		err = v.Write(e.conn)
	}
	if err != nil {
		return b, fmt.Errorf("send keys to the snapshot worker: %w", err)
	}
	before, ok := s.workers.add(a.ID, e)
	if !ok {
		return b, errEnding
	}
	if before != nil {
		before.end()
	}
	go s.attend(a.ID, e)
	return b, nil
}

// holdLocal prevents the deletion of the local snapshot of a stored one.
func (s *Server) holdLocal(id string, e *workerEnd) (pinned.StateRef, error) {
	ref, free, err := s.vol.HoldSnapshot(workerctl.LocalName(id))
	if err == nil {
		e.free = append(e.free, free)
	}
	return ref, err
}

// attend tells a worker how busy the volume is, until its end of the pair is closed. It reads only
// to notice that: a worker has nothing to say.
func (s *Server) attend(id string, e *workerEnd) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = e.conn.Read(make([]byte, 1))
		e.conn.Close()
	}()
	meter := newLoadMeter(s.fuse)
	tick := time.NewTicker(pacing.Every)
	defer tick.Stop()
	for alive := true; alive; {
		select {
		case <-gone:
			alive = false
		case <-tick.C:
			err := e.conn.SetWriteDeadline(time.Now().Add(pacing.Every))
			if err == nil {
				err = handover.WriteLoad(e.conn, meter.read())
			}
			// A worker that is stopped for a while keeps its snapshots. A unix socket takes a record of
			// this length whole or not at all.
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				e.conn.Close() // ends the reader
			}
		}
	}
	for _, free := range e.free {
		free()
	}
	s.workers.remove(id, e)
	close(e.done)
}

// endWorker keeps or deletes the local snapshots of a job that has ended.
func (s *Server) endWorker(_ context.Context, a workerctl.EndArgs) error {
	for _, id := range []string{a.ID, a.Drop} {
		if id == "" {
			continue
		}
		if err := workerctl.CheckID(id); err != nil {
			return control.WithCode(control.CodeMalformed, err)
		}
	}
	if e := s.workers.get(a.ID); e != nil {
		e.end()
	}
	var err error
	if !a.Keep {
		err = s.deleteLocal(a.ID)
	}
	if a.Drop != "" {
		err = errors.Join(err, s.deleteLocal(a.Drop))
	}
	return err
}

// deleteLocal deletes the local snapshot of a stored one, if it exists.
func (s *Server) deleteLocal(id string) error {
	err := s.vol.DeleteSnapshot(workerctl.LocalName(id))
	if errors.Is(err, volume.ErrNoSnapshot) {
		return nil
	}
	return err
}
