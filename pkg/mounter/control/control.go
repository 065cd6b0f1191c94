package control

import (
	"context"
	"errors"
	"fmt"
)

// ErrServer is the server's answer to a failed request; *Error has the details.
var ErrServer = errors.New("mount server")

// Error is the server's answer to a failed request. It wraps ErrServer.
type Error struct {
	Code    string `json:"code,omitempty"` // one word by which callers tell cases apart; "" for all others
	Message string `json:"message"`
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%v: %s", ErrServer, e.Message) }

// Unwrap makes errors.Is(err, ErrServer) true.
func (e *Error) Unwrap() error { return ErrServer }

// WithCode gives an error a code that is sent to the caller.
func WithCode(code string, err error) error { return &coded{code, err} }

type coded struct {
	code string
	err  error
}

func (c *coded) Error() string { return c.err.Error() }
func (c *coded) Unwrap() error { return c.err }

// HasCode tells whether err is a server's answer with the given code.
func HasCode(err error, code string) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// These are the codes that every server knows.
const (
	CodeUnknown   = "unknown"   // the server does not know the request: it has an older version
	CodeWrongKey  = "wrong-key" // the key opens no key slot of the volume
	CodeMalformed = "malformed" // the request cannot be decoded
	CodeBusy      = "busy"      // the mount is in use
	CodeElsewhere = "elsewhere" // the volume stays mounted in another place
)

// KeyCurrent is the request by which a mounter tells a server which key must open the volume from
// now on. Its descriptor yields the 32 bytes of the key, and another 32 bytes if there is a
// previous key.
const KeyCurrent = "key-current"

// Condition is an adverse state of a volume, as its server reports it.
type Condition struct {
	Lost         bool   `json:"lost,omitempty"`         // data is lost
	Inaccessible bool   `json:"inaccessible,omitempty"` // nothing can be read
	Reason       string `json:"reason"`                 // one CamelCase word
	Message      string `json:"message,omitempty"`
}

// Status says which volume a server serves, and how.
type Status struct {
	Volume     string      `json:"volume"` // the id given at start
	PID        int         `json:"pid"`
	ReadOnly   bool        `json:"readOnly,omitempty"` // as mounted, or after a failed write
	Conditions []Condition `json:"conditions,omitempty"`
}

// Stats is what df shows. Inodes are 0 if they are not limited.
type Stats struct {
	TotalBytes     int64 `json:"totalBytes"`
	UsedBytes      int64 `json:"usedBytes"`
	AvailableBytes int64 `json:"availableBytes"`
	TotalInodes    int64 `json:"totalInodes"`
	UsedInodes     int64 `json:"usedInodes"`
	FreeInodes     int64 `json:"freeInodes"`
}

// Handler answers the requests that every mount server has. Calls come concurrently. Status and
// Stats answer from memory and never wait for the device.
type Handler interface {
	// Status says which volume the server serves, and in which state it is.
	Status(ctx context.Context) (Status, error)
	// Stats says how full the volume is.
	Stats(ctx context.Context) (Stats, error)
	// Grow grows the volume to the present size of its device and returns the volume's size in
	// bytes.
	Grow(ctx context.Context) (int64, error)
	// Sync makes all acknowledged writes durable.
	Sync(ctx context.Context) error
	// Unmount makes everything durable and ends serving, even if the mount is still in use. It
	// returns when nothing more will be written to the device; then the process exits.
	Unmount(ctx context.Context) error
}

// Mux maps the requests that a server answers to their functions.
type Mux map[string]func(ctx context.Context, c *Call) (result any, err error)

// NewMux returns a Mux with the requests of a Handler.
func NewMux(h Handler) Mux {
	return Mux{
		"status": func(ctx context.Context, _ *Call) (any, error) { return h.Status(ctx) },
		"stats":  func(ctx context.Context, _ *Call) (any, error) { return h.Stats(ctx) },
		"grow": func(ctx context.Context, _ *Call) (any, error) {
			n, err := h.Grow(ctx)
			return grown{n}, err
		},
		"sync":    func(ctx context.Context, _ *Call) (any, error) { return nil, h.Sync(ctx) },
		"unmount": func(ctx context.Context, _ *Call) (any, error) { return nil, h.Unmount(ctx) },
	}
}

type grown struct {
	SizeBytes int64 `json:"sizeBytes"`
}
