package storerpc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
)

// ServerOptions bound what a client can make a server do.
type ServerOptions struct {
	// Requests is the maximum number of running requests. 0 means 16.
	Requests int
	// MemoryBytes limits the bodies of all running requests. 0 means 128 MiB. It is at least
	// MaxObjectBytes.
	MemoryBytes int64
}

const (
	defaultRequests = 16
	defaultMemory   = 128 << 20
)

// Serve answers requests on a connection from a store until the client closes
// it, which is not an error, or ctx ends. It closes the connection. Requests that
// are still running are cancelled, and Serve waits for them.
func Serve(ctx context.Context, conn net.Conn, store chunkstore.Store, o ServerOptions) error {
	if o.Requests <= 0 {
		o.Requests = defaultRequests
	}
	if o.MemoryBytes == 0 {
		o.MemoryBytes = defaultMemory
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s := &server{conn: conn, store: store, memory: semaphore.NewWeighted(max(o.MemoryBytes, MaxObjectBytes)),
		places: make(chan struct{}, o.Requests), running: map[uint64]context.CancelFunc{}}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	err := s.read(ctx)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	cancel(errors.New("the store's connection was closed"))
	conn.Close()
	s.group.Wait()
	if isEnd(err) {
		return nil
	}
	return err
}

// isEnd reports whether the other side just closed the connection, perhaps with
// answers unread.
func isEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

type server struct {
	conn   net.Conn
	store  chunkstore.Store
	memory *semaphore.Weighted
	places chan struct{}
	group  sync.WaitGroup

	mu      sync.Mutex
	running map[uint64]context.CancelFunc // guarded by mu

	writing sync.Mutex // held for one frame
}

// read starts each request; while there is no room for one more, nothing is
// read.
func (s *server) read(ctx context.Context) error {
	in := bufio.NewReaderSize(s.conn, 64<<10)
	for {
		r, err := readRequest(in)
		if err != nil {
			return err
		}
		if r.op == opCancel {
			s.mu.Lock()
			if cancel := s.running[r.id]; cancel != nil {
				cancel()
			}
			s.mu.Unlock()
			continue
		}
		select {
		case s.places <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		need := need(&r, int(r.body))
		if err := s.memory.Acquire(ctx, need); err != nil {
			return err
		}
		body := make([]byte, r.body)
		if _, err := io.ReadFull(in, body); err != nil {
			return broken(err)
		}
		rctx, cancel := context.WithCancel(ctx)
		s.mu.Lock()
		_, twice := s.running[r.id]
		s.running[r.id] = cancel
		s.mu.Unlock()
		if twice {
			cancel()
			return fmt.Errorf("%w: request %d twice", ErrProtocol, r.id)
		}
		s.group.Go(func() {
			a, out := s.do(rctx, &r, body)
			s.mu.Lock()
			delete(s.running, r.id) // before the answer: then the client may use the id again
			s.mu.Unlock()
			cancel()
			// A server that ends has cancelled the request: its error is not the store's.
			if ended := ctx.Err() != nil && a.status != statusOK; ended || s.write(&a, out) != nil {
				s.conn.Close() // the reader notices
			}
			s.memory.Release(need)
			<-s.places
		})
	}
}

func (s *server) write(a *answer, body []byte) error {
	a.body = uint32(len(body))
	s.writing.Lock()
	defer s.writing.Unlock()
	frame := net.Buffers{a.encode(), body}
	_, err := frame.WriteTo(s.conn)
	return err
}

// do does what a request asks for.
func (s *server) do(ctx context.Context, r *request, body []byte) (a answer, out []byte) {
	a.id = r.id
	var err error
	switch r.op {
	case opGet:
		out, err = s.store.Get(ctx, r.key, nil, int(r.limit))
	case opRange:
		out = make([]byte, r.limit)
		err = s.store.GetRange(ctx, r.key, int64(r.offset), out)
	case opPut:
		var created bool
		if created, err = s.store.Put(ctx, r.key, body); created {
			a.flags = flagCreated
		}
	case opReplace:
		err = s.store.Replace(ctx, r.key, body)
	case opStat:
		var info chunkstore.Info
		if info, err = s.store.Stat(ctx, r.key); err == nil {
			out = appendInfo(nil, &info)
		}
	case opDelete:
		err = s.store.Delete(ctx, r.key)
	case opLock:
		out, a.flags, err = s.lock(ctx, r, body)
	default:
		out, a.flags, err = s.list(ctx, r)
	}
	if err != nil {
		a.status, a.flags = statusOther, 0
		for st, sentinel := range sentinels {
			if errors.Is(err, sentinel) {
				a.status = st
			}
		}
		return a, text(err)
	}
	return a, out
}

// text is what a client is told of an error.
func text(err error) []byte {
	s := strings.ToValidUTF8(err.Error(), "?")
	if len(s) > maxTextBytes {
		s = s[:maxTextBytes]
		for !utf8.ValidString(s) {
			s = s[:len(s)-1]
		}
	}
	return []byte(s)
}

// list returns one page.
func (s *server) list(ctx context.Context, r *request) (out []byte, flags uint8, err error) {
	n := 0
	for info, err := range s.store.List(ctx, r.key, r.after) {
		if err != nil {
			return nil, 0, err
		}
		if n++; n > pageItems {
			return out, flagMore, nil
		}
		out = appendInfo(out, &info)
	}
	return out, 0, nil
}
