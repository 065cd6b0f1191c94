package fusefs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

const (
	// MaxDataBytes is the maximum size of a READ or WRITE.
	MaxDataBytes = 1 << 20

	// The number of goroutines that always wait for requests. The kernel wakes them in turn. Each
	// additional goroutine spreads the same requests over one more buffer of 1 MiB, which makes the
	// CPU caches less effective.
	minHandlers        = 2
	defaultMaxHandlers = 32

	// The maximum number of additional handlers for parked requests. During a freeze, all writers
	// are parked. Each may hold a request of 1 MiB.
	maxParked = 128

	// RequestMemory is what the requests of a Server with the default number of handlers take at
	// most, in bytes: a request and an answer for each handler, and the requests that are parked.
	RequestMemory = (2*defaultMaxHandlers + maxParked) * (MaxDataBytes + 3*pageBytes + smallReplyBytes)

	// The maximum number of read-ahead and direct I/O requests that the kernel keeps in flight.
	maxBackground = 64

	inHeaderBytes  = int(unsafe.Sizeof(fuse.InHeader{}))
	outHeaderBytes = int(unsafe.Sizeof(fuse.OutHeader{}))
	pageBytes      = 4096

	// Buffer size for all answers except for those whose size is in the request. The longest is
	// that of READLINK.
	smallReplyBytes = 2 * pageBytes

	// Opcodes that the loop handles specially: enum fuse_opcode, include/uapi/linux/fuse.h.
	opRead        = 15
	opWrite       = 16
	opFsync       = 20
	opGetxattr    = 22
	opListxattr   = 23
	opInit        = 26
	opReaddir     = 28
	opFsyncdir    = 30
	opIoctl       = 39
	opReaddirplus = 44

	// resendBit marks a request that is sent a second time (FUSE_UNIQUE_RESEND).
	resendBit = 1 << 63
)

// ErrAborted is the error of Serve if the connection was aborted, not unmounted.
var ErrAborted = errors.New("fuse connection aborted")

// Options are the options of NewServer. FS and Device are required.
type Options struct {
	FS vfs.FS

	// Device is the descriptor that Mount returned. Serve closes it.
	Device *os.File

	// ReadOnly answers every change with EROFS, even if the mount is read-write.
	ReadOnly bool

	// MaxHandlers is the maximum number of requests that are handled at once. Each may use 2 MiB.
	// The default is 32.
	MaxHandlers int

	// InitRequest is the result of the previous server's InitRequest, if Device is a connection
	// that it has served. It is nil for a new mount.
	InitRequest []byte

	Logger *slog.Logger // default: slog.Default()

	// Damaged, if not nil, is called for each operation that failed because data or metadata of an
	// inode is damaged. It must not block.
	Damaged func(ino vfs.Ino)
}

// Server answers the requests of one mount.
type Server struct {
	fd          int
	device      *os.File // keeps fd open
	proto       *fuse.ProtocolServer
	raw         *raw
	log         *slog.Logger
	maxHandlers int64
	ready       chan struct{}
	init        []byte // set before ready is closed
	takeover    []byte

	serving  atomic.Bool
	idle     atomic.Int64 // handlers waiting in read(2)
	handlers atomic.Int64
	parked   atomic.Int64 // handlers whose request is parked
	wg       sync.WaitGroup
	endOnce  sync.Once
	endErr   error // set by endOnce, read after wg.Wait
	using    using
	counts   loadCounts
	later    later
	spare    sync.Pool // *handler, of loops that ended
	replies  sync.Pool // *[]byte, for large answers
}

// NewServer returns a Server. It reads nothing from the device before Serve.
func NewServer(o Options) (*Server, error) {
	if o.FS == nil || o.Device == nil {
		return nil, errors.New("fusefs: FS and Device are required")
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.MaxHandlers <= 0 {
		o.MaxHandlers = defaultMaxHandlers
	}
	s := &Server{
		fd:          int(o.Device.Fd()), // makes the descriptor blocking, which loop relies on
		device:      o.Device,
		log:         o.Logger,
		maxHandlers: int64(max(o.MaxHandlers, minHandlers)),
		ready:       make(chan struct{}),
		takeover:    slices.Clone(o.InitRequest),
	}
	s.spare.New = func() any { return newHandler() }
	s.replies.New = func() any { b := alignedBuffer(outHeaderBytes); return &b }
	s.raw = newRaw(o, s)
	if p, ok := vfs.As[vfs.Parker](o.FS); ok {
		p.OnPark(s.park)
	}
	s.proto = newProtocol(o, s)
	return s, nil
}

func newProtocol(o Options, s *Server) *fuse.ProtocolServer {
	opts := protocolOptions(o)
	opts.Logger = slog.NewLogLogger(s.log.Handler(), slog.LevelWarn)
	opts.PanicHandler = s.panicked
	return fuse.NewProtocolServer(s.raw, opts)
}

// protocolOptions are the options that were fastest in measurements.
func protocolOptions(o Options) *fuse.MountOptions {
	caps := uint64(fuse.CAP_HANDLE_KILLPRIV_V2 | // otherwise, each write first sends GETXATTR
		fuse.CAP_READDIRPLUS_AUTO |
		fuse.CAP_ASYNC_DIO |
		fuse.CAP_DONT_MASK | // the umask does not apply in a directory with a default ACL
		fuse.CAP_SETXATTR_EXT |
		fuse.CAP_NO_OPENDIR_SUPPORT |
		fuse.CAP_ABORT_ERROR | // lets Serve distinguish an abort from an unmount
		fuse.CAP_HAS_RESEND)
	if keepsInos(o.FS) {
		caps |= fuse.CAP_EXPORT_SUPPORT // LOOKUP of "." and ".."
	}
	// Never CAP_ATOMIC_O_TRUNC: with OPEN=ENOSYS, the server would not learn of O_TRUNC.
	// Never CAP_WRITEBACK_CACHE: data would be written after later metadata, and the FS would not
	// know the size of a file (mapped.go relies on it).
	// EnableLocks stays off: the kernel's own locks are exact on one machine, and with OPEN=ENOSYS,
	// close would send no unlock.
	return &fuse.MountOptions{
		MaxWrite:                 MaxDataBytes,
		MaxBackground:            maxBackground,
		EnableSymlinkCaching:     true,
		ExplicitDataCacheControl: true,
		IDMappedMount:            true,
		EnableAcl:                true,
		ExtraCapabilities:        caps,
		DisabledCapabilities:     fuse.CAP_PASSTHROUGH,
	}
}

// alignedBuffer returns a buffer for a header, MaxDataBytes and some more. The data begins at a
// page boundary, where the kernel copies fastest.
func alignedBuffer(header int) []byte {
	b := make([]byte, MaxDataBytes+3*pageBytes)
	first := int(-uintptr(unsafe.Pointer(&b[0])) % pageBytes) // to the page boundary
	return b[first+pageBytes-header:][:MaxDataBytes+pageBytes]
}

// Ready returns a channel that is closed when INIT is answered. Then the mount can be used.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// InitRequest returns the kernel's INIT request unchanged, for a server that takes over. It is nil
// before Ready.
func (s *Server) InitRequest() []byte {
	select {
	case <-s.ready:
		return slices.Clone(s.init)
	default:
		return nil
	}
}

// Serve answers requests until the file system is unmounted (nil), the connection is aborted
// (ErrAborted) or the device fails. When it returns, no request is in progress, all inodes are
// forgotten, and Device is closed.
func (s *Server) Serve() error {
	if !s.serving.CompareAndSwap(false, true) {
		return errors.New("fusefs: Serve called twice")
	}
	defer s.device.Close()
	if err := s.handshake(); err != nil {
		return err
	}
	for range minHandlers {
		s.startHandler()
	}
	s.wg.Wait()
	if s.using.begin() {
		defer s.using.done()
		s.raw.refs.dropAll()
	}
	return s.endErr
}

// handshake answers INIT. The kernel sends nothing else before it.
func (s *Server) handshake() error {
	if s.takeover != nil {
		// The previous server has already answered the kernel.
		s.init = s.takeover
		s.raw.kernelFlags = initFlags(s.init)
		reply := make([]byte, smallReplyBytes)
		if _, st := s.proto.HandleRequest([][]byte{s.init}, [][]byte{reply}); !st.Ok() {
			return fmt.Errorf("fuse takeover: INIT: %v", st)
		}
		close(s.ready)
		return nil
	}
	h := newHandler()
	for s.init == nil {
		req, err := s.read(h.request)
		if err != nil {
			return fmt.Errorf("fuse handshake: %w", err)
		}
		if req == nil {
			continue
		}
		if opcode(req) == opInit {
			s.init = slices.Clone(req)
			s.raw.kernelFlags = initFlags(req)
		}
		s.handle(h, req)
	}
	close(s.ready)
	return nil
}

// initFlags returns the capabilities that INIT offers (struct fuse_init_in).
func initFlags(req []byte) uint64 {
	if len(req) < inHeaderBytes+16 {
		return 0
	}
	flags := uint64(binary.NativeEndian.Uint32(req[inHeaderBytes+12:]))
	if len(req) >= inHeaderBytes+20 {
		flags |= uint64(binary.NativeEndian.Uint32(req[inHeaderBytes+16:])) << 32
	}
	return flags
}

// handler is the state of one goroutine of the loop.
type handler struct {
	request []byte // more than 1 MiB; only used pages are resident
	reply   []byte // small answers
}

func newHandler() *handler {
	return &handler{
		request: alignedBuffer(inHeaderBytes + int(unsafe.Sizeof(fuse.WriteIn{})-unsafe.Sizeof(fuse.InHeader{}))),
		reply:   make([]byte, smallReplyBytes),
	}
}

func (s *Server) startHandler() {
	s.handlers.Add(1)
	s.idle.Add(1)
	s.wg.Go(func() {
		defer s.handlers.Add(-1)
		s.loop()
	})
}

// addHandler starts a handler, unless the maximum is reached.
func (s *Server) addHandler() {
	if s.handlers.Load() < s.maxHandlers+min(s.parked.Load(), maxParked) {
		s.startHandler()
	}
}

// park is called when requests wait for a long time without using the device. Meanwhile, other
// requests get additional handlers.
func (s *Server) park(n int) {
	s.parked.Add(int64(n))
	if n > 0 && s.idle.Load() == 0 {
		s.addHandler()
	}
}

// loop reads and handles requests until the end, or until enough other handlers wait.
func (s *Server) loop() {
	h := s.spare.Get().(*handler)
	defer s.spare.Put(h)
	for {
		req, err := s.read(h.request)
		waiting := s.idle.Add(-1)
		if err != nil {
			s.end(err)
			return
		}
		if req != nil {
			if waiting == 0 {
				s.addHandler()
			}
			s.handle(h, req)
		}
		if s.idle.Add(1) > minHandlers {
			s.idle.Add(-1)
			return
		}
	}
}

// end keeps the error of the first handler that stops. The others stop with the same error.
func (s *Server) end(err error) {
	s.endOnce.Do(func() {
		if !errors.Is(err, unix.ENODEV) { // unmounted
			s.endErr = err
			s.log.Error("fuse connection lost", slog.Any("error", err))
		}
	})
}

// read waits for a request. It returns nil for a request that needs no answer, and an error if
// there will be no more requests.
func (s *Server) read(buf []byte) ([]byte, error) {
	n, err := unix.Read(s.fd, buf)
	switch err {
	case nil:
		if n < inHeaderBytes {
			return nil, fmt.Errorf("fuse device: request of %d bytes", n)
		}
		return buf[:n], nil
	case unix.EINTR, unix.EAGAIN, unix.ENOENT: // ENOENT: the request was interrupted before it was read
		return nil, nil
	case unix.ECONNABORTED:
		return nil, ErrAborted
	default:
		return nil, fmt.Errorf("fuse device: %w", err)
	}
}

func (s *Server) write(b []byte) error {
	for {
		_, err := unix.Write(s.fd, b)
		if err != unix.EINTR && err != unix.EAGAIN {
			return err
		}
	}
}

func opcode(req []byte) uint32 { return binary.NativeEndian.Uint32(req[4:]) }

// replyBytes returns the buffer size for the answer to req.
func replyBytes(req []byte) int {
	var sizeAt int // offset in the request of the size of the variable part
	switch opcode(req) {
	case opRead, opReaddir, opReaddirplus:
		sizeAt = int(unsafe.Offsetof(fuse.ReadIn{}.Size))
	case opGetxattr, opListxattr:
		sizeAt = int(unsafe.Offsetof(fuse.GetXAttrIn{}.Size))
	case opIoctl:
		sizeAt = int(unsafe.Offsetof(fuse.IoctlIn{}.OutSize))
	default:
		return smallReplyBytes
	}
	if len(req) < sizeAt+4 {
		return smallReplyBytes
	}
	return pageBytes/2 + int(binary.NativeEndian.Uint32(req[sizeAt:]))
}

// handle answers one request.
func (s *Server) handle(h *handler, req []byte) {
	if !s.using.begin() {
		s.refuse(req)
		return
	}
	defer s.using.done()
	defer s.timed(opcode(req), time.Now())
	out := h.reply
	if replyBytes(req) > len(out) {
		big := s.replies.Get().(*[]byte)
		defer s.replies.Put(big)
		out = *big
	}
	hideFromPollHack(req)
	n, st := s.handleProtected(req, out)
	if !st.Ok() {
		// The request is malformed, but a process waits for an answer.
		n = copy(out, errorReply(req, st))
	}
	if n == 0 {
		return // FORGET and similar requests
	}
	if first := s.later.take(req); first != nil {
		req, out := slices.Clone(req[:inHeaderBytes]), slices.Clone(out[:n])
		s.wg.Go(func() {
			first()
			s.answer(req, out)
		})
		return
	}
	s.answer(req, out[:n])
}

// answer sends the answer to req. It uses only the header of req.
func (s *Server) answer(req, out []byte) {
	switch err := s.write(out); {
	case err == nil:
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ECONNABORTED):
		// The caller or the mount is gone.
	default:
		s.log.Error("the kernel refused a FUSE reply", slog.Uint64("opcode", uint64(opcode(req))), slog.Int("bytes", len(out)), slog.Any("error", err))
		if err := s.write(errorReply(req, fuse.EIO)); err != nil {
			s.log.Debug("the kernel refused a FUSE error reply", slog.Any("error", err))
		}
	}
}

// handleProtected turns a panic outside of the handlers into EIO. Panics in handlers end in
// Server.panicked.
func (s *Server) handleProtected(req, out []byte) (n int, st fuse.Status) {
	defer func() {
		if p := recover(); p != nil {
			n, st = 0, s.panicked(p)
		}
	}()
	return s.proto.HandleRequest([][]byte{req}, [][]byte{out})
}

// panicked logs a bug. It logs the text of the panic only if the Go runtime raised it, because
// other texts may contain data.
func (s *Server) panicked(p any) fuse.Status {
	what := fmt.Sprintf("%T", p)
	if e, ok := p.(interface {
		error
		RuntimeError()
	}); ok {
		what = e.Error()
	}
	s.log.Error("BUG: panic while answering a request; it fails with EIO",
		slog.String("panic", what), slog.String("stack", string(debug.Stack())))
	return fuse.EIO
}

func errorReply(req []byte, st fuse.Status) []byte {
	b := make([]byte, 0, outHeaderBytes)
	b = binary.NativeEndian.AppendUint32(b, uint32(outHeaderBytes))
	b = binary.NativeEndian.AppendUint32(b, uint32(-int32(st)))
	return append(b, req[8:16]...) // unique
}
