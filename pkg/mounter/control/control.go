package control

import (
	"context"
	"errors"
	"fmt"
)

// ErrServer is what the server answered to a request that failed; *Error says more.
var ErrServer = errors.New("mount server")

// Error is the server's answer to a request that failed. It wraps ErrServer.
type Error struct {
	Code    string `json:"code,omitempty"` // one word for callers to tell cases apart, "" for the rest
	Message string `json:"message"`
}

func (e *Error) Error() string { return fmt.Sprintf("%v: %s", ErrServer, e.Message) }

// Unwrap makes errors.Is(err, ErrServer) true.
func (e *Error) Unwrap() error { return ErrServer }

// WithCode makes an error that reaches the caller with a code.
func WithCode(code string, err error) error { return &coded{code, err} }

type coded struct {
	code string
	err  error
}

func (c *coded) Error() string { return c.err.Error() }
func (c *coded) Unwrap() error { return c.err }

// HasCode tells whether err is a server's answer with that code.
func HasCode(err error, code string) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// Codes that every server knows.
const (
	CodeUnknown   = "unknown"   // it does not know the request: an older version
	CodeWrongKey  = "wrong-key" // the key opens nothing of the volume
	CodeMalformed = "malformed" // the request can not be read
	CodeBusy      = "busy"      // the mount is in use
)

// KeyCurrent is the request by which a mounter tells a server which key is to open the volume from now on. Its descriptor gives 32 bytes, the
// key, and 32 more if there is one that it may have been before.
const KeyCurrent = "key-current"

// Condition is an adverse state of a volume, as its server knows it.
type Condition struct {
	Lost         bool   `json:"lost,omitempty"`         // data is gone
	Inaccessible bool   `json:"inaccessible,omitempty"` // nothing can be read
	Reason       string `json:"reason"`                 // one CamelCase word
	Message      string `json:"message,omitempty"`
}

// Status tells who serves what.
type Status struct {
	Volume     string      `json:"volume"` // the id given at start
	PID        int         `json:"pid"`
	ReadOnly   bool        `json:"readOnly,omitempty"` // as mounted, or after a failed write
	Conditions []Condition `json:"conditions,omitempty"`
}

// Stats is what df shows. Inodes are 0 where they are not limited.
type Stats struct {
	TotalBytes     int64 `json:"totalBytes"`
	UsedBytes      int64 `json:"usedBytes"`
	AvailableBytes int64 `json:"availableBytes"`
	TotalInodes    int64 `json:"totalInodes"`
	UsedInodes     int64 `json:"usedInodes"`
	FreeInodes     int64 `json:"freeInodes"`
}

// Handler is what every mount server can be asked. Calls come concurrently. Status and Stats answer from
// memory and never wait for the device.
type Handler interface {
	// Status tells who serves what, and what is wrong with it.
	Status(ctx context.Context) (Status, error)
	// Stats tells how full the volume is.
	Stats(ctx context.Context) (Stats, error)
	// Grow takes in what the device has grown by, up to its present size, and returns the volume's size in bytes.
	Grow(ctx context.Context) (int64, error)
	// Sync makes everything acknowledged durable.
	Sync(ctx context.Context) error
	// Unmount makes everything durable and ends serving, whoever still uses the mount. It returns when
	// nothing more will be written to the device; the process then exits.
	Unmount(ctx context.Context) error
}

// Mux names the requests that a server answers.
type Mux map[string]func(ctx context.Context, c *Call) (result any, err error)

// NewMux makes a Mux of a Handler's requests.
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
