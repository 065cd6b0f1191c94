package workerctl

// The descriptors of a worker. All others are closed, except standard input (empty) and the
// standard outputs (the log).
const (
	FDHandshake = 3 + iota // configuration and steps, as for a mount server
	FDKeys                 // socket pair to the mount server
	FDDevice               // read-only
	FDControl              // listening socket of package control
	FDSecrets              // pipe from the caller
	FDStore                // socket to the caller
	FDEnd                  // one after the last
)

// Config is the first message of a worker's handshake.
type Config struct {
	Start  Start  `json:"start"`
	Limits Limits `json:"limits"`
	// DataBytes is the limit (RLIMIT_DATA) that the process sets itself, because no cgroup limits
	// its memory; 0: none.
	DataBytes int64  `json:"dataBytes,omitempty"`
	RequestID string `json:"requestId,omitempty"`
}

// Step is a later message of the handshake. A worker sends "confined", when it may get keys, and
// "started", or an error.
type Step struct {
	Step  string `json:"step,omitempty"`
	Error string `json:"error,omitempty"`
}

// The steps of the handshake.
const (
	StepConfined = "confined"
	StepStarted  = "started"
)

// The requests of a worker's control socket.
const (
	OpStatus = "status" // answers with a Status
	OpStore  = "store"  // with a descriptor: a new socket to the store
	OpWait   = "wait"   // answers with the Status when the job has ended; then the process ends
)

// The requests of a mount server about workers.
const (
	OpBegin = "snapshot-worker"     // BeginArgs and a socket; answers with Begun
	OpEnd   = "snapshot-worker-end" // EndArgs
)

// BeginArgs ask a mount server to make the local snapshot of a job, and to send keys and state to
// the worker over the socket that comes along (package handover).
type BeginArgs struct {
	ID   string   `json:"id"`
	Base string   `json:"base,omitempty"`
	Drop []string `json:"drop,omitempty"`
}

// Begun is the answer to BeginArgs.
type Begun struct {
	Created bool `json:"created"` // the local snapshot was made now
	Base    bool `json:"base"`    // the base exists
}

// EndArgs tell a mount server that the worker of a job has ended.
type EndArgs struct {
	ID   string `json:"id"`
	Keep bool   `json:"keep"`           // the local snapshot of ID stays
	Drop string `json:"drop,omitempty"` // the stored snapshot whose local snapshot is no longer needed
}
