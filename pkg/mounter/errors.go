package mounter

import (
	"errors"
	"fmt"
)

// These errors cross the sockets of this package. Serve returns those from ErrNoKey on, wrapped, to
// say why a volume cannot be mounted; anything else is ErrServer.
var (
	ErrInvalid    = errors.New("invalid request")
	ErrNotMounted = errors.New("volume is not mounted here")
	ErrConflict   = errors.New("volume is already mounted with other settings")
	ErrBusy       = errors.New("volume is in use")
	ErrDead       = errors.New("mount server has died")
	ErrServer     = errors.New("mount server failed")

	// ErrNoWorker: no snapshot of the volume is being stored, or not this one.
	ErrNoWorker = errors.New("no snapshot of the volume is being stored")

	// ErrUnreachable: no mounter answers. The client returns it; it never crosses a socket.
	ErrUnreachable = errors.New("the mounter does not answer")

	ErrNoKey    = errors.New("a key is needed")
	ErrWrongKey = errors.New("the key does not open this volume")
	ErrForeign  = errors.New("the device holds something that is not this volume")
	ErrDamaged  = errors.New("the volume is damaged")

	// ErrBlank: the device is blank, and the request does not allow formatting it.
	ErrBlank = errors.New("the device is blank and formatting it is not allowed")

	// ErrNoBlockFile: a raw block volume must be mounted for writing once, which creates its file,
	// before it can be mounted read-only.
	ErrNoBlockFile = errors.New("the volume has no raw block device yet, and it is mounted read-only; mount it for writing once")

	// ErrRolledBack: the device does not hold the state of the anchor, nor a newer one that follows
	// from it.
	ErrRolledBack = errors.New("the device was rolled back or exchanged")

	// ErrCopy: the device was copied from another volume's device, and the request does not declare
	// a copy (MountRequest.RejectCopy).
	ErrCopy = errors.New("the device holds a copy of another volume")

	// ErrRestoring: the volume is being restored from a stored snapshot and is incomplete.
	ErrRestoring = errors.New("the volume is being restored")
)

var wireCodes = map[string]error{
	"invalid": ErrInvalid, "not-mounted": ErrNotMounted, "conflict": ErrConflict, "busy": ErrBusy,
	"dead": ErrDead, "server": ErrServer, "no-key": ErrNoKey, "wrong-key": ErrWrongKey,
	"foreign": ErrForeign, "damaged": ErrDamaged, "read-only": ErrBlank, "rolled-back": ErrRolledBack, "copy": ErrCopy, "restoring": ErrRestoring,
	"no-block-file": ErrNoBlockFile, "no-worker": ErrNoWorker,
}

// wireError is an error on a socket.
type wireError struct {
	Code    string `json:"code,omitempty"`
	Message string `json:"message"`
}

const maxMessage = 1024 // of an error's text on a socket

func toWire(err error) *wireError {
	if err == nil {
		return nil
	}
	w := &wireError{Message: err.Error()}
	if len(w.Message) > maxMessage {
		w.Message = w.Message[:maxMessage]
	}
	for code, e := range wireCodes {
		if code != "server" && errors.Is(err, e) {
			w.Code = code
			return w
		}
	}
	if errors.Is(err, ErrServer) {
		w.Code = "server"
	}
	return w
}

// remoteError keeps the error's text and works with errors.Is.
type remoteError struct {
	text string
	is   error
}

func (e remoteError) Error() string { return e.text }
func (e remoteError) Unwrap() error { return e.is }

func (w *wireError) err() error {
	if w == nil {
		return nil
	}
	if e, ok := wireCodes[w.Code]; ok {
		return remoteError{w.Message, e}
	}
	return fmt.Errorf("mounter: %s", w.Message)
}
