package fusefs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Opcodes without an answer: enum fuse_opcode, include/uapi/linux/fuse.h.
const (
	opForget      = 2
	opInterrupt   = 36
	opBatchForget = 42
)

// using protects the FS while requests use it. Requests hold the lock shared.
type using struct {
	mu      sync.RWMutex
	retired bool // guarded by mu
}

// begin tells whether the FS may still be used. If so, the caller must call done.
func (u *using) begin() bool {
	u.mu.RLock()
	if u.retired {
		u.mu.RUnlock()
		return false
	}
	return true
}

func (u *using) done() { u.mu.RUnlock() }

// Retire detaches the FS from the server. It returns when no request uses the FS. From then on, the
// server answers every request with ENOTCONN and never calls the FS again. In contrast to
// AbortConnection and Unmount, it needs neither privileges nor access to the mount. So it works for
// a mount in another mount namespace. Do not use it if requests of the Server may be parked.
func (s *Server) Retire() {
	s.using.mu.Lock()
	s.using.retired = true
	s.using.mu.Unlock()
}

// refuse answers a request that arrives after Retire.
func (s *Server) refuse(req []byte) {
	switch opcode(req) {
	case opForget, opBatchForget, opInterrupt:
		return
	}
	s.answer(req, errorReply(req, fuse.Status(unix.ENOTCONN)))
}
