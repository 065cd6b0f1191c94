package fusefs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Opcodes that have no answer: enum fuse_opcode, include/uapi/linux/fuse.h.
const (
	opForget      = 2
	opInterrupt   = 36
	opBatchForget = 42
)

// using keeps the FS until no request is in it. Requests hold the lock shared.
type using struct {
	mu      sync.RWMutex
	retired bool // guarded by mu
}

// begin tells whether the FS may still be used; if so, done ends the use.
func (u *using) begin() bool {
	u.mu.RLock()
	if u.retired {
		u.mu.RUnlock()
		return false
	}
	return true
}

func (u *using) done() { u.mu.RUnlock() }

// Retire takes the FS away from the server. It returns when no request is in the FS. From then on
// the server answers every request with ENOTCONN, and never calls the FS again. It needs no
// privilege and no access to the mount, which AbortConnection and Unmount do: a mount in another
// mount namespace can be retired. Not for a Server some of whose requests may be parked.
func (s *Server) Retire() {
	s.using.mu.Lock()
	s.using.retired = true
	s.using.mu.Unlock()
}

// refuse answers a request that comes after Retire.
func (s *Server) refuse(req []byte) {
	switch opcode(req) {
	case opForget, opBatchForget, opInterrupt:
		return
	}
	s.answer(req, errorReply(req, fuse.Status(unix.ENOTCONN)))
}
