package control

import (
	"context"
	"errors"
)

// ErrServer is what the server answered to a request that failed.
var ErrServer = errors.New("mount server")

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

// Handler is what a mount server can be asked. Calls come concurrently. Status and Stats answer from
// memory and never wait for the device.
type Handler interface {
	Status(ctx context.Context) (Status, error)
	Stats(ctx context.Context) (Stats, error)
	// Grow takes in what the device has grown by, up to its present size, and returns the volume's size in bytes.
	Grow(ctx context.Context) (int64, error)
	// Sync makes everything acknowledged durable.
	Sync(ctx context.Context) error
	// Unmount makes everything durable and ends serving, whoever still uses the mount. It returns when
	// nothing more will be written to the device; the process then exits.
	Unmount(ctx context.Context) error
}

const (
	maxRequest  = 4 << 10
	maxResponse = 64 << 10
	maxConns    = 16
)

type request struct {
	Op string `json:"op"`
}

type response struct {
	Error     string  `json:"error,omitempty"`
	Status    *Status `json:"status,omitempty"`
	Stats     *Stats  `json:"stats,omitempty"`
	SizeBytes int64   `json:"sizeBytes,omitempty"`
}
