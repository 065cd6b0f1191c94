package fusefs

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// settling tells when all that the kernel had queued at a moment has been answered. Handlers are
// not counted one by one: between its read(2) and any bookkeeping a handler has a request that
// nobody knows of. Instead each handler notes the present turn whenever it begins to wait for a
// request: a handler that has noted turn t has answered all that it read before t began.
type settling struct {
	turn atomic.Uint64

	mu       sync.Mutex
	handlers map[*handler]struct{} // guarded by mu
}

func (s *settling) enter(h *handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.handlers == nil {
		s.handlers = map[*handler]struct{}{}
	}
	s.pass(h)
	s.handlers[h] = struct{}{}
}

func (s *settling) leave(h *handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.handlers, h)
}

func (s *settling) pass(h *handler) { h.turn.Store(s.turn.Load()) }

// passed tells whether all handlers have come to a turn.
func (s *settling) passed(turn uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for h := range s.handlers {
		if h.turn.Load() < turn {
			return false
		}
	}
	return true
}

const (
	settleTick = 200 * time.Microsecond
	// How long Settle waits for a moment in which the kernel's queue is empty.
	settlePatience = 2 * time.Second
)

// Settle returns when every request that the kernel had queued before the call has been answered.
// Called after syncfs(2), which for most FUSE mounts begins the writing back of mapped pages and
// does not wait for its end, it makes the FS know all that programs had stored before.
//
// The kernel's queue has two parts: what read(2) will get, and requests in the background beyond
// maxBackground, which move up as others are answered. In a moment in which read(2) would get
// nothing, and there are fewer handlers than maxBackground, both are empty. On a connection that is
// never so quiet, Settle has the kernel write back and drop the pages of all inodes instead.
func (s *Server) Settle(ctx context.Context) error {
	tick := time.NewTicker(settleTick)
	defer tick.Stop()
	patience := time.NewTimer(settlePatience)
	defer patience.Stop()
	for !s.queueEmpty() {
		select {
		case <-tick.C:
		case <-patience.C:
			return s.writeBackAll(ctx)
		case <-ctx.Done():
			return fmt.Errorf("settle: %w", context.Cause(ctx))
		}
	}
	turn := s.settling.turn.Add(1)
	for !s.settling.passed(turn) {
		if err := s.poke(); err != nil { // wakes handlers that have nothing to do, in turn
			return fmt.Errorf("settle: %w", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("settle: %w", context.Cause(ctx))
		}
	}
	return nil
}

// queueEmpty tells whether at some moment during the call the kernel had nothing queued.
func (s *Server) queueEmpty() bool {
	// At most so many handlers can have had a request at any moment of the call.
	begun, most := s.begun.Load(), s.handlers.Load()
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	most += s.begun.Load() - begun
	return err == nil && n == 0 && most < maxBackground
}

// writeBackAll has the kernel write back and drop the pages of all inodes that it knows.
func (s *Server) writeBackAll(ctx context.Context) error {
	for _, id := range s.raw.refs.all() {
		if ctx.Err() != nil {
			return fmt.Errorf("settle: %w", context.Cause(ctx))
		}
		if err := s.InvalInode(id, 0, 0); err != nil {
			return fmt.Errorf("settle: %w", err)
		}
	}
	return nil
}

// all is the inodes that the kernel knows.
func (r *refs) all() (list []vfs.Ino) {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for id := range s.counts {
			list = append(list, id)
		}
		s.mu.Unlock()
	}
	return list
}
