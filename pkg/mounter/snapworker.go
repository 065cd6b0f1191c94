package mounter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sealvol/sealvol/pkg/atomicfile"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
)

// snapWorker is the process that stores a snapshot of a volume, or what is left of it. A volume has
// at most one.
type snapWorker struct {
	start workerctl.Start
	file  string // has its record
	ask   control.Client

	pid  int // 0 if it was gone when this mounter started
	dead chan struct{}
	stop func(kill bool) error // SIGTERM or SIGKILL

	mu       sync.Mutex
	rec      workerRecord // guarded by mu
	gone     bool         // the record was removed and must not be written again; guarded by mu
	why      string       // what the log and the kernel say about a death; guarded by mu
	starting bool         // it has no keys yet, and does not answer; guarded by mu
	// ended is closed when the outcome is known and recorded.
	ended chan struct{}
}

// workerRecord is the worker.json of a volume.
type workerRecord struct {
	Version int              `json:"version"`
	Start   workerctl.Start  `json:"start"`
	Limits  workerctl.Limits `json:"limits"`
	PID     int              `json:"pid,omitempty"`
	Begun   uint64           `json:"begun,omitempty"` // its start time, as of record.Start
	Boot    string           `json:"boot"`
	// Stopping is the outcome that it was asked to end with, and Reason why.
	Stopping workerctl.Outcome `json:"stopping,omitempty"`
	Reason   string            `json:"reason,omitempty"`
	// End is the last status, when the job has ended.
	End *workerctl.Status `json:"end,omitempty"`
	// Settled: the mount server has kept or deleted the local snapshots.
	Settled bool `json:"settled,omitempty"`
}

const (
	workerVersion = 1
	maxStep       = 64      // bytes of the name of a step
	maxResult     = 8 << 10 // bytes of a job's result
	// maxWorkerBytes is the length of a record: parameters and result may take six times their
	// length in JSON.
	maxWorkerBytes = 256 << 10
)

// workerFile is the record of a volume's worker, in the volume's directory.
func (p *places) workerFile() string { return filepath.Join(p.dir, "worker.json") }

// workerControl is the control socket of a volume's worker.
func (p *places) workerControl() string { return filepath.Join(p.dir, "worker") }

// save writes the record. The caller holds mu, or nobody else knows w.
func (w *snapWorker) save() error {
	if w.gone {
		return nil
	}
	b, err := json.Marshal(&w.rec)
	if err != nil {
		return err
	}
	return atomicfile.Write(w.file, b, atomicfile.Options{Temp: w.file + ".tmp", Volatile: true})
}

// forget removes the record.
func (w *snapWorker) forget() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gone = true
	if err := os.Remove(w.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// alive tells whether the process runs.
func (w *snapWorker) alive() bool {
	select {
	case <-w.dead:
		return false
	default:
		return true
	}
}

// hasEnded tells whether the outcome is known.
func (w *snapWorker) hasEnded() bool {
	select {
	case <-w.ended:
		return true
	default:
		return false
	}
}

// outcome returns how the job has ended.
func (w *snapWorker) outcome() workerctl.Outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rec.End == nil {
		return workerctl.Running
	}
	return w.rec.End.Outcome
}

// finish records the outcome, once. st is what the worker said, or nil if it said nothing.
func (w *snapWorker) finish(st *workerctl.Status) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rec.End != nil {
		return nil
	}
	if st == nil {
		st = &workerctl.Status{ID: w.start.ID, Outcome: workerctl.Died, Limits: w.rec.Limits,
			Message: "the snapshot worker ended without a result: " + w.why + ". Start the snapshot again to continue it"}
	}
	if w.rec.Stopping != "" && (st.Outcome == workerctl.Interrupted || st.Outcome == workerctl.Died) {
		st.Outcome, st.Message = w.rec.Stopping, w.rec.Reason
	}
	st.PID = 0
	w.rec.End = st
	err := w.save()
	close(w.ended)
	return err
}

// trim keeps of what a worker says only what it may say: its memory holds keys, and it parses what
// others have written.
func (w *snapWorker) trim(s *workerctl.Status) {
	s.ID, s.PID, s.Limits = w.start.ID, w.pid, w.rec.Limits
	s.Message, s.Progress.Step = clean(s.Message), clean(s.Progress.Step)
	if len(s.Progress.Step) > maxStep {
		s.Progress.Step = s.Progress.Step[:maxStep]
	}
	if len(s.Result) > maxResult {
		s.Result = nil
	}
	switch s.Outcome {
	case workerctl.Running, workerctl.Succeeded, workerctl.Failed, workerctl.Stopped, workerctl.Interrupted:
	default:
		s.Outcome = workerctl.Stopped
	}
}

// status returns the state of the job.
func (w *snapWorker) status(ctx context.Context) (workerctl.Status, error) {
	w.mu.Lock()
	end, starting := w.rec.End, w.starting
	w.mu.Unlock()
	if end != nil {
		return *end, nil
	}
	if starting {
		return workerctl.Status{ID: w.start.ID, PID: w.pid, Limits: w.rec.Limits, Progress: workerctl.Progress{Step: "starting"}, UpdatedMillis: time.Now().UnixMilli()}, nil
	}
	var s workerctl.Status
	err := w.ask.Do(ctx, control.Request{Op: workerctl.OpStatus}, &s)
	if err != nil && !await(ctx, w.ended, askTimeout) {
		return workerctl.Status{}, fmt.Errorf("%w: the snapshot worker does not answer: %w", ErrServer, err)
	}
	if err != nil { // it was just ending
		return w.status(ctx)
	}
	w.trim(&s)
	return s, nil
}

// loadWorker reads the record of a volume's worker. It returns nil if there is none of this boot.
func loadWorker(file string) (*workerRecord, error) {
	b, err := readBounded(file, maxWorkerBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r workerRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if r.Version != workerVersion || r.Start.Check() != nil {
		return nil, fmt.Errorf("%s is not of version %d; it was written by another version of Sealvol", file, workerVersion)
	}
	if r.Boot != bootID() {
		return nil, nil
	}
	return &r, nil
}
