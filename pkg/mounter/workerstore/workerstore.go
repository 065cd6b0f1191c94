package workerstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/storerpc"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// Rights returns what the writer of snapshot s may do in a store below a prefix, which is empty or
// ends in "/". It may read everything. It may store packs, pages and what belongs to s, and change
// or delete only leases on s. So a worker that somebody has taken over can neither delete nor forget
// other snapshots. A writer that has to begin again under another identity may use those in more.
func Rights(prefix string, s format.ID, more ...format.ID) chunkstore.Rights {
	r := chunkstore.Rights{Prefix: prefix, Put: []string{format.PackPrefix, format.PagePrefix}}
	for _, id := range append([]format.ID{s}, more...) {
		leases := format.LeasePrefix + id.String() + "/"
		r.Put = append(r.Put, format.SnapKey(id, ""), leases)
		r.Replace, r.Delete = append(r.Replace, leases), append(r.Delete, leases)
	}
	return r
}

// End is the caller's end of one connection.
type End struct {
	// Worker is the worker's end. Pass it on, and then close it.
	Worker *os.File

	done chan struct{} // closed when the connection has ended
	err  error         // set before done is closed
	stop context.CancelFunc
}

// Serve serves a store to a worker until the connection ends, Close is called, or ctx ends. Closing
// the store is up to the caller.
func Serve(ctx context.Context, store chunkstore.Store, r chunkstore.Rights) (*End, error) {
	limited, err := chunkstore.Limit(store, r)
	if err != nil {
		return nil, err
	}
	limited = boundLock(limited)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket pair for a snapshot worker: %w", err)
	}
	mine, theirs := os.NewFile(uintptr(pair[0]), "store"), os.NewFile(uintptr(pair[1]), "store")
	conn, err := net.FileConn(mine)
	mine.Close()
	if err != nil {
		theirs.Close()
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	e := &End{Worker: theirs, done: make(chan struct{}), stop: stop}
	go func() {
		defer close(e.done)
		e.err = storerpc.Serve(ctx, conn, limited, storerpc.ServerOptions{})
	}()
	return e, nil
}

// Wait waits until the connection has ended.
func (e *End) Wait() error {
	<-e.done
	e.stop()
	return e.err
}

// Close ends the connection. The worker then waits for another one.
func (e *End) Close() error {
	e.stop()
	e.Worker.Close()
	<-e.done
	if errors.Is(e.err, context.Canceled) {
		return nil
	}
	return e.err
}
