package workerctl

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// LocalPrefix begins the names of local snapshots that belong to stored ones.
const LocalPrefix = "ses-"

// LocalName returns the name of the local snapshot of stored snapshot id.
func LocalName(id string) string { return LocalPrefix + id }

// ErrID is the error of a malformed identity.
var ErrID = errors.New("malformed identity of a stored snapshot: want 32 hexadecimal digits in lower case")

// CheckID checks the identity of a stored snapshot.
func CheckID(id string) error {
	if b, err := hex.DecodeString(id); err != nil || len(b) != 16 || strings.ToLower(id) != id {
		return fmt.Errorf("%w, not %.40q", ErrID, id)
	}
	return nil
}

// Start says what a worker does. The tenant secret and the keys of the snapshot's slots come in a
// pipe (package handover), the store in a socket.
type Start struct {
	Volume string `json:"volume"`
	ID     string `json:"id"`             // of the stored snapshot
	Base   string `json:"base,omitempty"` // of the stored snapshot whose local snapshot is the base, if that exists
	// Drop are the stored snapshots whose local snapshots are no longer needed.
	Drop []string `json:"drop,omitempty"`
	// BytesPerSecond limits how fast the worker reads the device; 0 is no limit of its own.
	BytesPerSecond int64 `json:"bytesPerSecond,omitempty"`
	// Params are the job's own.
	Params json.RawMessage `json:"params,omitempty"`
}

const (
	maxDrop   = 64
	maxParams = 8 << 10
)

// Check checks a request.
func (s *Start) Check() error {
	for _, id := range append([]string{s.ID}, s.Drop...) {
		if err := CheckID(id); err != nil {
			return err
		}
	}
	if s.Base != "" {
		if err := CheckID(s.Base); err != nil {
			return err
		}
	}
	switch {
	case s.Base == s.ID:
		return errors.New("a snapshot cannot be its own base")
	case len(s.Drop) > maxDrop:
		return fmt.Errorf("too many local snapshots to drop: %d; at most %d", len(s.Drop), maxDrop)
	case len(s.Params) > maxParams:
		return fmt.Errorf("the job's parameters have %d bytes; at most %d", len(s.Params), maxParams)
	case s.BytesPerSecond < 0:
		return errors.New("the limit of the rate is negative")
	}
	for _, id := range s.Drop {
		if id == s.ID || id == s.Base {
			return fmt.Errorf("local snapshot %s is needed and cannot be dropped", LocalName(id))
		}
	}
	return nil
}

// Outcome says how a job has ended.
type Outcome string

// The outcomes. Local snapshots are kept or deleted accordingly: see the package comment.
const (
	Running     Outcome = ""            // it has not ended
	Succeeded   Outcome = "succeeded"   // the stored snapshot is whole
	Failed      Outcome = "failed"      // for good: starting it again would fail again
	Stopped     Outcome = "stopped"     // by an error after which the same job may be started again
	Cancelled   Outcome = "cancelled"   // by its caller
	Interrupted Outcome = "interrupted" // because the volume was unmounted, or by a signal
	Died        Outcome = "died"        // the process ended without a result
)

// Resumable tells whether starting the same job again continues it.
func (o Outcome) Resumable() bool { return o == Stopped || o == Interrupted || o == Died }

// Progress is how far a job is, as the job says it.
type Progress struct {
	Step        string `json:"step,omitempty"` // one word: what it is doing
	BytesDone   int64  `json:"bytesDone"`
	BytesTotal  int64  `json:"bytesTotal"` // 0: not known yet
	FilesDone   int64  `json:"filesDone"`
	FilesTotal  int64  `json:"filesTotal"`
	BytesStored int64  `json:"bytesStored"` // sent to the store
	BytesReused int64  `json:"bytesReused"` // of the base
}

// Status is the state of a job.
type Status struct {
	ID       string   `json:"id"`
	PID      int      `json:"pid,omitempty"`
	Outcome  Outcome  `json:"outcome,omitempty"`
	Message  string   `json:"message,omitempty"` // why it ended, or what it waits for
	Progress Progress `json:"progress"`
	// BytesRead are the bytes read from the device. BytesPerSecond is how fast they were read in
	// the last seconds, LimitPerSecond the present limit; 0: none.
	BytesRead      int64 `json:"bytesRead"`
	BytesPerSecond int64 `json:"bytesPerSecond"`
	LimitPerSecond int64 `json:"limitPerSecond,omitempty"`
	// Slowed: the worker reads more slowly, because the volume is busy.
	Slowed bool `json:"slowed,omitempty"`
	// NoStore: the store socket has ended, and the worker waits for another.
	NoStore bool `json:"noStore,omitempty"`
	// UpdatedMillis is when the worker made this status (Unix time).
	UpdatedMillis int64 `json:"updatedMillis,omitempty"`
	// Limits says how the worker's memory, CPU time and I/O are limited.
	Limits Limits `json:"limits"`
	// Result is the job's own, after it succeeded.
	Result json.RawMessage `json:"result,omitempty"`
}

// Limits says what limits a worker.
type Limits struct {
	// Cgroup is true if a cgroup of its own limits memory, CPU time and I/O. Otherwise its
	// scheduling priority, its I/O priority and the limits of the process do.
	Cgroup bool `json:"cgroup"`
	// Missing says why there is no cgroup, or which of its limits could not be set.
	Missing     string `json:"missing,omitempty"`
	MemoryBytes int64  `json:"memoryBytes"`
	UID         int    `json:"uid"`
}
