package mountserver

import (
	"sync"

	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

// loadMeter says how busy a server is, each time since the time before.
type loadMeter struct {
	of *fusefs.Server

	mu   sync.Mutex
	last fusefs.Load // guarded by mu
}

func (m *loadMeter) read() workerctl.Load {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.of.Load()
	n, p99 := l.Since(&m.last)
	m.last = l
	return workerctl.Load{Queue: l.Queue, Requests: int64(n), P99Micros: p99.Microseconds()}
}
