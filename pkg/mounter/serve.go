package mounter

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/requestid"
)

// The descriptors of a mount server.
const (
	fdHandshake = 3 + iota
	fdKeys
	fdDevice
	fdFuse
	fdControl
)

// ServeConfig is everything that a mount server gets.
type ServeConfig struct {
	Volume string
	// Device is open for reading and, unless ReadOnly, for writing. It is not locked: opening the
	// volume takes its exclusive lock on this descriptor (a duplicate in the mounter shares it).
	Device *os.File
	// Fuse is /dev/fuse. It must not be read before Ready has returned.
	Fuse *os.File
	// Keys must be copied into locked memory, and cleared as soon as the volume is open.
	Keys     Keys
	ReadOnly bool
	// Format, if not nil, allows formatting a blank device. Without it, a blank device is ErrBlank.
	// A device that holds anything else is ErrForeign.
	Format *Format
	// Block says that the volume holds the file of a raw block device.
	Block bool
	// Instance is the UUID that the device must get; "" keeps the present one. Own refuses a device
	// that has another one (ErrCopy).
	Instance string
	Own      bool
	// Anchor is the state that the device must hold, or a newer one that follows from it; otherwise
	// the error is ErrRolledBack. "" means that there is no anchor.
	Anchor string
	// MemoryBytes limits everything that the volume keeps in memory; 0 means the engine's default.
	MemoryBytes int64

	// Ready must be called once, when the volume is open and can be served. It starts the control
	// socket with m and returns when the mount exists. After an error, give up.
	Ready func(ctx context.Context, m control.Mux) error
	// Serving must be called once, when the kernel's INIT has been answered.
	Serving func()
}

// Serve opens a volume and serves it until it is unmounted (reading Fuse returns ENODEV), until a
// Handler's Unmount, or until ctx ends. Then it closes the volume and returns. It must not return
// nil before everything is durable. Errors that the caller can act upon wrap ErrWrongKey,
// ErrForeign, ErrDamaged, ErrRestoring or ErrBlank.
type Serve func(ctx context.Context, c ServeConfig) error

// serverConfig is the first message of the handshake.
type serverConfig struct {
	Volume      string  `json:"volume"`
	ReadOnly    bool    `json:"readOnly,omitempty"`
	Format      *Format `json:"format,omitempty"`
	Block       bool    `json:"block,omitempty"`
	Instance    string  `json:"instance,omitempty"`
	Own         bool    `json:"own,omitempty"`
	Anchor      string  `json:"anchor,omitempty"`
	MemoryBytes int64   `json:"memoryBytes,omitempty"`
	// RequestID is the id of the call that the mount belongs to.
	RequestID string `json:"requestId,omitempty"`
}

// step is each later message: opened ◄, mounted ►, serving ◄.
type step struct {
	Step  string     `json:"step,omitempty"`
	Error *wireError `json:"error,omitempty"`
}

const maxHandshake = 64 << 10

// RunServer is the process of a mount server that a mounter has started. It returns when serving
// has ended.
func RunServer(ctx context.Context, serve Serve) error {
	signal.Ignore(syscall.SIGPIPE) // a server must not end because its log lost its reader
	// Its own user cannot trace it, and it dumps no core, because its memory holds keys.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("mount server: PR_SET_DUMPABLE: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("mount server: RLIMIT_CORE: %w", err)
	}
	s, err := newServer()
	if err != nil {
		return fmt.Errorf("mount server: %w (the mounter starts this command; do not run it by hand)", err)
	}
	defer s.hand.Close()
	ctx, cancel := context.WithCancel(requestid.With(ctx, s.cfg.RequestID))
	defer cancel()
	err = serve(ctx, s.config(ctx))
	s.keys.Clear()
	if err != nil && !s.isReady {
		level := slog.LevelWarn
		if errors.Is(err, ErrBlank) { // the first of two attempts at a new volume
			level = slog.LevelInfo
		}
		s.log.Log(ctx, level, "volume not opened", "volume", s.cfg.Volume, "error", err)
		err = errors.Join(err, s.send(step{Error: toWire(err)}))
	}
	cancel()
	s.control.Wait()
	return err
}

type server struct {
	log     *slog.Logger
	cfg     serverConfig
	keys    Keys
	hand    net.Conn
	in      *bufio.Reader
	listen  *net.UnixListener
	control sync.WaitGroup
	isReady bool
}

func newServer() (*server, error) {
	for fd := fdHandshake; fd <= fdControl; fd++ {
		unix.CloseOnExec(fd)
	}
	h := os.NewFile(fdHandshake, "handshake")
	conn, err := net.FileConn(h)
	h.Close()
	if err != nil {
		return nil, err
	}
	s := &server{log: requestid.Logger(nil), hand: conn, in: bufio.NewReaderSize(conn, maxHandshake)}
	if err := s.receive(&s.cfg); err != nil {
		return nil, err
	}
	if s.keys, err = readKeys(os.NewFile(fdKeys, "keys")); err != nil {
		return nil, err
	}
	lf := os.NewFile(fdControl, "control")
	l, err := net.FileListener(lf)
	lf.Close()
	if err != nil {
		return nil, err
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.New("the control descriptor is not a unix socket")
	}
	ul.SetUnlinkOnClose(false)
	s.listen = ul
	return s, nil
}

// readKeys reads the key pipe without growing a buffer, which would leave copies of the keys
// behind.
func readKeys(f *os.File) (Keys, error) {
	defer f.Close()
	buf := make([]byte, 2*KeyBytes+1)
	n := 0
	for n < len(buf) {
		m, err := f.Read(buf[n:])
		n += m
		if err == io.EOF {
			break
		}
		if err != nil {
			clear(buf)
			return Keys{}, err
		}
	}
	k, err := keysFromRaw(buf[:n])
	if err != nil {
		clear(buf)
	}
	return k, err
}

func (s *server) config(ctx context.Context) ServeConfig {
	return ServeConfig{
		Volume: s.cfg.Volume, Keys: s.keys, ReadOnly: s.cfg.ReadOnly, Format: s.cfg.Format, Block: s.cfg.Block, Instance: s.cfg.Instance, Own: s.cfg.Own, Anchor: s.cfg.Anchor, MemoryBytes: s.cfg.MemoryBytes,
		Device: os.NewFile(fdDevice, "device"), Fuse: os.NewFile(fdFuse, "/dev/fuse"),
		Ready: s.ready, // not an error if the mounter died in the meantime: the next mounter adopts this server
		Serving: func() {
			s.log.InfoContext(ctx, "serving", "volume", s.cfg.Volume, "readOnly", s.cfg.ReadOnly)
			_ = s.send(step{Step: "serving"})
		},
	}
}

func (s *server) ready(ctx context.Context, mux control.Mux) error {
	if err := s.send(step{Step: "opened"}); err != nil {
		return err
	}
	var m step
	if err := s.receive(&m); err != nil {
		return fmt.Errorf("the mounter closed the handshake: %w", err)
	}
	if err := m.Error.err(); err != nil {
		return err
	}
	if m.Step != "mounted" {
		return fmt.Errorf("%w: unexpected step %q", ErrInvalid, m.Step)
	}
	s.isReady = true
	s.control.Go(func() {
		// The volume stays served, but the only request that it can still get is a signal to end.
		if err := control.Serve(ctx, s.listen, mux); err != nil {
			s.log.Error("control socket failed", "volume", s.cfg.Volume, "error", err)
		}
	})
	return nil
}

func (s *server) send(m any) error { return sendLine(s.hand, m) }

func (s *server) receive(m any) error { return receiveLine(s.in, m) }

func sendLine(w io.Writer, m any) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

func receiveLine(r *bufio.Reader, m any) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(line, m)
}
