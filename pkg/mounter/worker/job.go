package worker

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"

	"github.com/sealvol/sealvol/pkg/mounter/handover"
	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

// Job stores one snapshot. When it returns nil, the stored snapshot is whole. After any error but
// that of Final, the same job may be started again, in a new process. It ends soon after its context
// has ended.
type Job func(ctx context.Context, e Env) error

// Env is everything that a Job gets.
type Env struct {
	ID     string // of the stored snapshot
	BaseID string // of the base; "" if there is none
	// Device is the device of the volume, which is mounted and in use. It can only be read. Reading
	// it is paced.
	Device device.Device
	// Volume has the data keys of the volume, and says where its local snapshots are. It is erased
	// after the job.
	Volume *handover.Volume
	// Secrets has the tenant's secret and the keys of the stored snapshot. It is erased after the
	// job.
	Secrets *handover.Secrets
	// Store is the store. Operations wait while its connection is replaced.
	Store chunkstore.Store
	// Params are the job's own, as its caller gave them.
	Params json.RawMessage
	// Progress says how far the job is. It may be called at any time and does not block.
	Progress func(workerctl.Progress)
	// Result sets what the caller gets when the job succeeds.
	Result func(json.RawMessage)
	Log    *slog.Logger
}

// Final says that a job failed for good: the local snapshot that it read is deleted.
func Final(err error) error { return &finalError{err} }

type finalError struct{ error }

func (e *finalError) Unwrap() error { return e.error }

// outcome returns how a job has ended. cancelled says that it was asked to end.
func outcome(err error, cancelled bool) workerctl.Outcome {
	var final *finalError
	switch {
	case err == nil:
		return workerctl.Succeeded
	case cancelled:
		return workerctl.Interrupted
	case errors.As(err, &final):
		return workerctl.Failed
	}
	return workerctl.Stopped
}
