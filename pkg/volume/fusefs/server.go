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
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

const (
	// MaxDataBytes is the largest READ or WRITE.
	MaxDataBytes = 1 << 20

	// Goroutines that always wait for requests. The kernel wakes them in turn, so
	// that each more spreads the same requests over one more buffer of 1 MiB, and
	// fewer caches hold them.
	minHandlers        = 2
	defaultMaxHandlers = 32

	// How many handlers there may be beyond that for requests that are parked: in a
	// freeze every writer is. Each may hold a request of 1 MiB.
	maxParked = 128

	// RequestMemory is what the requests of a Server with the default number of handlers take at
	// most, in bytes: a request and an answer for each handler, and the requests that are parked.
	RequestMemory = (2*defaultMaxHandlers + maxParked) * (MaxDataBytes + 3*pageBytes + smallReplyBytes)

	// How many read-ahead and direct I/O requests the kernel keeps in flight.
	maxBackground = 64

	inHeaderBytes  = int(unsafe.Sizeof(fuse.InHeader{}))
	outHeaderBytes = int(unsafe.Sizeof(fuse.OutHeader{}))
	pageBytes      = 4096

	// Room for every answer but those whose size the request states: the
	// longest is READLINK's.
	smallReplyBytes = 2 * pageBytes

	// Opcodes that the loop must know: enum fuse_opcode, include/uapi/linux/fuse.h.
	opRead        = 15
	opGetxattr    = 22
	opListxattr   = 23
	opInit        = 26
	opReaddir     = 28
	opIoctl       = 39
	opReaddirplus = 44

	// resendBit marks a request that is sent a second time (FUSE_UNIQUE_RESEND).
	resendBit = 1 << 63
)

// ErrAborted is Serve's error when the connection was aborted, not unmounted.
var ErrAborted = errors.New("fuse connection aborted")

// Options says what to serve and how. FS and Device are required.
type Options struct {
	FS vfs.FS

	// Device is the descriptor that Mount returned. Serve closes it.
	Device *os.File

	// ReadOnly answers every change with EROFS, whatever the mount says.
	ReadOnly bool

	// MaxHandlers bounds the requests handled at once; each may use 2 MiB. Default 32.
	MaxHandlers int

	// InitRequest is what InitRequest returned of the server before this one, when
	// Device is a connection that it had served. Nil for a fresh mount.
	InitRequest []byte

	Logger *slog.Logger // default: slog.Default()

	// Damaged, if not nil, hears of each operation that failed because what it needed of an inode is damaged. It must not wait.
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
	later    later
	spare    sync.Pool // *handler, of loops that ended
	replies  sync.Pool // *[]byte, for large answers
}

// NewServer makes a Server; nothing is read from the device before Serve.
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
		fd:          int(o.Device.Fd()), // makes it blocking, which loop relies on
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

// protocolOptions are the knobs that measured best.
func protocolOptions(o Options) *fuse.MountOptions {
	caps := uint64(fuse.CAP_HANDLE_KILLPRIV_V2 | // else each write first asks for an xattr
		fuse.CAP_READDIRPLUS_AUTO |
		fuse.CAP_ASYNC_DIO |
		fuse.CAP_DONT_MASK | // the umask does not apply beneath a default ACL
		fuse.CAP_SETXATTR_EXT |
		fuse.CAP_NO_OPENDIR_SUPPORT |
		fuse.CAP_ABORT_ERROR | // tells an abort from an unmount
		fuse.CAP_HAS_RESEND)
	if keepsInos(o.FS) {
		caps |= fuse.CAP_EXPORT_SUPPORT // LOOKUP of "." and ".."
	}
	// Never CAP_ATOMIC_O_TRUNC: with OPEN=ENOSYS nobody would tell us of O_TRUNC.
	// Never CAP_WRITEBACK_CACHE: written data would be reordered behind metadata, and the FS would
	// not know how large a file is (mapped.go relies on that).
	// EnableLocks stays off: the kernel's own locks are exact on one machine, and
	// with OPEN=ENOSYS a close would send no unlock.
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

// alignedBuffer has room for a header, MaxDataBytes and some more, with the data
// on a page boundary, where the kernel copies fastest.
func alignedBuffer(header int) []byte {
	b := make([]byte, MaxDataBytes+3*pageBytes)
	first := int(-uintptr(unsafe.Pointer(&b[0])) % pageBytes) // to the page boundary
	return b[first+pageBytes-header:][:MaxDataBytes+pageBytes]
}

// Ready is closed once the kernel's INIT is answered: the mount can be used.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// InitRequest is the kernel's INIT as it came, for a server that takes over;
// nil before Ready.
func (s *Server) InitRequest() []byte {
	select {
	case <-s.ready:
		return slices.Clone(s.init)
	default:
		return nil
	}
}

// Serve answers requests until the file system is unmounted (nil), the
// connection is aborted (ErrAborted) or the device fails. At the end no request is
// in progress, the FS has been told to forget every inode, and Device is closed.
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

// handshake answers INIT alone: the kernel sends nothing else before.
func (s *Server) handshake() error {
	if s.takeover != nil {
		// The kernel had its answer from the server before us.
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

// initFlags is the capabilities that INIT offers (struct fuse_init_in).
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

// handler is what one goroutine of the loop owns.
type handler struct {
	request []byte // 1 MiB and more; only what requests filled is resident
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

// addHandler starts a handler, unless there are as many as there may be.
func (s *Server) addHandler() {
	if s.handlers.Load() < s.maxHandlers+min(s.parked.Load(), maxParked) {
		s.startHandler()
	}
}

// park is told of requests that wait for something that may take long, and need
// no device: others get handlers of their own meanwhile.
func (s *Server) park(n int) {
	s.parked.Add(int64(n))
	if n > 0 && s.idle.Load() == 0 {
		s.addHandler()
	}
}

// loop reads and handles requests until the end, or until enough others wait.
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

// end keeps the first handler's reason to stop; the others meet the same.
func (s *Server) end(err error) {
	s.endOnce.Do(func() {
		if !errors.Is(err, unix.ENODEV) { // unmounted
			s.endErr = err
			s.log.Error("fuse connection lost", slog.Any("err", err))
		}
	})
}

// read waits for a request. It returns nil for one that is not worth an answer
// and an error when there will be no more.
func (s *Server) read(buf []byte) ([]byte, error) {
	n, err := unix.Read(s.fd, buf)
	switch err {
	case nil:
		if n < inHeaderBytes {
			return nil, fmt.Errorf("fuse device: request of %d bytes", n)
		}
		return buf[:n], nil
	case unix.EINTR, unix.EAGAIN, unix.ENOENT: // ENOENT: interrupted before we got it
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

// replyBytes is the room that the answer to req needs.
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
	out := h.reply
	if replyBytes(req) > len(out) {
		big := s.replies.Get().(*[]byte)
		defer s.replies.Put(big)
		out = *big
	}
	hideFromPollHack(req)
	n, st := s.handleProtected(req, out)
	if !st.Ok() {
		// Not understood: somebody waits for an answer all the same.
		n = copy(out, errorReply(req, st))
	}
	if n == 0 {
		return // FORGET and the like
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

// answer sends the answer to req, of which it needs the header.
func (s *Server) answer(req, out []byte) {
	switch err := s.write(out); {
	case err == nil:
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ECONNABORTED):
		// The caller has gone, or the mount.
	default:
		s.log.Error("fuse reply refused", slog.Uint64("opcode", uint64(opcode(req))), slog.Int("bytes", len(out)), slog.Any("err", err))
		if err := s.write(errorReply(req, fuse.EIO)); err != nil {
			s.log.Debug("fuse error reply refused", slog.Any("err", err))
		}
	}
}

// handleProtected turns a panic outside the handlers proper into EIO; the
// handlers' own end in Server.panicked.
func (s *Server) handleProtected(req, out []byte) (n int, st fuse.Status) {
	defer func() {
		if p := recover(); p != nil {
			n, st = 0, s.panicked(p)
		}
	}()
	return s.proto.HandleRequest([][]byte{req}, [][]byte{out})
}

// panicked logs a bug. The panic's text is logged only if it is the runtime's
// own, since others might quote data.
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
