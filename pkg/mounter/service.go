package mounter

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/requestid"
)

// The mounter's socket: one request and one response a connection, each
//
//	u32 BE length of the JSON ‖ u32 BE length of the secret ‖ JSON ‖ secret
//
// After the request's object the JSON may have another one, an envelope: mounters before it never
// look that far, and a caller before it sends none. Keys are the secret of a "mount" and of "check-keys"; they never are JSON. Both sides clear their
// buffers.

const (
	maxFrameJSON   = 256 << 10
	maxFrameSecret = 2 * KeyBytes
	maxConns       = 256 // a node that starts has all its volumes mounted at once, and some have 128
	readTimeout    = 10 * time.Second
	ownTimeout     = 15 * time.Second // for the mounter before to end
)

type call struct {
	Op      string          `json:"op"`
	Mount   *MountRequest   `json:"mount,omitempty"`
	Unmount *UnmountRequest `json:"unmount,omitempty"`
	Volume  string          `json:"volume,omitempty"`
}

// volume is what a call is about, "" for all.
func (c call) volume() string {
	switch {
	case c.Mount != nil:
		return c.Mount.Volume
	case c.Unmount != nil:
		return c.Unmount.Volume
	}
	return c.Volume
}

type reply struct {
	Error     *wireError     `json:"error,omitempty"`
	SizeBytes int64          `json:"sizeBytes,omitempty"`
	Stats     *control.Stats `json:"stats,omitempty"`
	Health    *Info          `json:"health,omitempty"`
	List      []Info         `json:"list,omitempty"`
	Idle      bool           `json:"idle,omitempty"`
}

// envelope is what stands beside a request. What a reader does not know in it, it ignores.
type envelope struct {
	RequestID string `json:"requestId,omitempty"`
}

// writeFrame writes a message and, unless it is empty, its envelope.
func writeFrame(w io.Writer, m any, e envelope, secret []byte) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if e != (envelope{}) {
		more, err := json.Marshal(e)
		if err != nil {
			return err
		}
		b = append(append(b, '\n'), more...)
	}
	if len(b) > maxFrameJSON || len(secret) > maxFrameSecret {
		return fmt.Errorf("%w: message too long", ErrInvalid)
	}
	buf := make([]byte, 8, 8+len(b)+len(secret))
	defer clear(buf[:cap(buf)])
	binary.BigEndian.PutUint32(buf, uint32(len(b)))
	binary.BigEndian.PutUint32(buf[4:], uint32(len(secret)))
	buf = append(append(buf, b...), secret...)
	_, err = w.Write(buf)
	return err
}

// readFrame fills m and returns its envelope, and the secret, nil if there is none.
func readFrame(r io.Reader, m any) (e envelope, secret []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return e, nil, err
	}
	n, s := binary.BigEndian.Uint32(head[:]), binary.BigEndian.Uint32(head[4:])
	if n > maxFrameJSON || s > maxFrameSecret {
		return e, nil, fmt.Errorf("%w: message too long", ErrInvalid)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return e, nil, err
	}
	if s > 0 {
		secret = make([]byte, s)
		if _, err := io.ReadFull(r, secret); err != nil {
			clear(secret)
			return e, nil, err
		}
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		clear(secret)
		return e, nil, fmt.Errorf("%w: malformed message", ErrInvalid)
	}
	if rest := b[d.InputOffset():]; json.NewDecoder(bytes.NewReader(rest)).Decode(&e) != nil {
		e = envelope{} // whatever it is, a mounter before envelopes would not have read it
	}
	return e, secret, nil
}

// Run is the mounter's service: it serves SocketPath(opt.StateDir) until ctx ends or a caller's Quit finds
// it idle. Mount servers go on without it.
func Run(ctx context.Context, opt Options) (err error) {
	signal.Ignore(syscall.SIGPIPE) // who reads the log may go; the mounter stays
	// Whoever starts a second mounter by mistake must not leave it waiting for the first one's end.
	openCtx, cancelOpen := context.WithTimeout(ctx, ownTimeout)
	m, err := Open(openCtx, opt)
	cancelOpen()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	l, err := control.Listen(SocketPath(m.opt.StateDir))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, maxConns)
	s := &service{m: m, quit: func() {
		cancel()
		l.Close() // now: who is told that it ends must not reach it any more
	}}
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				if m.opt.TakesServers {
					m.syncAll()
				}
				return nil
			}
			return err
		}
		select {
		case slots <- struct{}{}:
			wg.Go(func() {
				defer func() { <-slots }()
				s.conn(ctx, c)
			})
		default:
			c.Close()
		}
	}
}

// syncAll has all servers write what they have.
func (m *Mounter) syncAll() {
	ctx, cancel := context.WithTimeout(context.Background(), m.opt.StopTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, i := range m.List(ctx) {
		if !i.Alive {
			continue
		}
		wg.Go(func() {
			// Not by Mounter.server, which waits for whoever works on the volume.
			if err := (control.Client{Path: ControlPath(m.opt.StateDir, i.Volume)}).Sync(ctx); err != nil {
				m.opt.Log.Error("a mount server ends with the mounter, and did not write all that it has", "volume", i.Volume, "error", err)
			}
		})
	}
	wg.Wait()
}

type service struct {
	m    *Mounter
	quit func()
	busy atomic.Int64 // mounts and unmounts that run
}

func (s *service) conn(ctx context.Context, c *net.UnixConn) {
	defer c.Close()
	if control.CheckPeer(c) != nil {
		return
	}
	if c.SetReadDeadline(time.Now().Add(readTimeout)) != nil {
		return
	}
	var in call
	e, secret, err := readFrame(c, &in)
	defer clear(secret)
	ctx = requestid.With(ctx, e.RequestID)
	var out reply
	if err == nil {
		// The operation outlives its caller, who will repeat it: half a mount is of no use to anybody.
		// It also outlives a mounter that is asked to end; the timeouts bound it.
		begin := time.Now()
		out, err = s.answer(context.WithoutCancel(ctx), in, secret)
		s.logged(ctx, in, begin, err)
	}
	if err != nil {
		out = reply{Error: toWire(err)}
	}
	if out.Idle {
		s.quit()
	}
	err = c.SetWriteDeadline(time.Now().Add(readTimeout))
	if err == nil {
		err = writeFrame(c, out, envelope{}, nil)
	}
	if err != nil { // a caller that has gone asks again
		s.m.opt.Log.WarnContext(ctx, "answer not sent", "error", err)
	}
}

// logged writes one line for a request: failures as warnings. What a request changes says so by a
// line of its own, so that the rest is for debugging.
func (s *service) logged(ctx context.Context, in call, begin time.Time, err error) {
	level := slog.LevelDebug
	attrs := []slog.Attr{slog.String("op", in.Op), slog.String("took", time.Since(begin).Round(10*time.Microsecond).String())}
	if id := in.volume(); id != "" {
		attrs = append(attrs, slog.String("volume", id))
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
		// Nothing is wrong when a volume is not here, is no longer, or was never made: callers ask to
		// know that.
		if !errors.Is(err, ErrNotMounted) && !errors.Is(err, ErrDead) && !errors.Is(err, ErrBlank) {
			level = slog.LevelWarn
		}
	}
	s.m.opt.Log.LogAttrs(ctx, level, "mounter request", attrs...)
}

func (s *service) answer(ctx context.Context, in call, secret []byte) (out reply, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.m.opt.MountTimeout+s.m.opt.StopTimeout)
	defer cancel()
	switch {
	case in.Op == "mount" && in.Mount != nil:
		s.busy.Add(1)
		defer s.busy.Add(-1)
		if in.Mount.Keys, err = keysFromRaw(secret); err != nil {
			return out, err
		}
		return out, s.m.Mount(ctx, *in.Mount)
	case in.Op == "unmount" && in.Unmount != nil:
		s.busy.Add(1)
		defer s.busy.Add(-1)
		return out, s.m.Unmount(ctx, *in.Unmount)
	case in.Op == "check-keys":
		k, err := keysFromRaw(secret)
		if err != nil {
			return out, err
		}
		return out, s.m.CheckKeys(ctx, in.Volume, k)
	case in.Op == "grow":
		out.SizeBytes, err = s.m.Grow(ctx, in.Volume)
		return out, err
	case in.Op == "stats":
		st, err := s.m.Stats(ctx, in.Volume)
		out.Stats = &st
		return out, err
	case in.Op == "health":
		h, err := s.m.Health(ctx, in.Volume)
		out.Health = &h
		return out, err
	case in.Op == "ping":
		return out, nil
	case in.Op == "list":
		out.List = s.m.List(ctx)
		return out, nil
	case in.Op == "quit":
		out.Idle = s.busy.Load() == 0 && len(s.m.List(ctx)) == 0
		return out, nil
	}
	return out, fmt.Errorf("%w: unknown operation", ErrInvalid)
}

// Client asks the mounter that listens at Socket.
type Client struct{ Socket string }

func (c Client) call(ctx context.Context, in call, secret []byte) (reply, error) {
	conn, err := control.DialSocket(ctx, c.Socket)
	if err != nil {
		return reply{}, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var out reply
	err = writeFrame(conn, in, envelope{RequestID: requestid.From(ctx)}, secret)
	if err == nil {
		_, _, err = readFrame(conn, &out)
	}
	if ctx.Err() != nil {
		return reply{}, ctx.Err()
	}
	if err != nil {
		return reply{}, fmt.Errorf("%w: %w", ErrUnreachable, err) // it ended in the middle; repeat
	}
	return out, out.Error.err()
}

// Mount is Mounter.Mount.
func (c Client) Mount(ctx context.Context, r MountRequest) error {
	raw := r.Keys.raw()
	defer clear(raw)
	_, err := c.call(ctx, call{Op: "mount", Mount: &r}, raw)
	return err
}

// Unmount is Mounter.Unmount.
func (c Client) Unmount(ctx context.Context, r UnmountRequest) error {
	_, err := c.call(ctx, call{Op: "unmount", Unmount: &r}, nil)
	return err
}

// CheckKeys is Mounter.CheckKeys. A mounter that does not know it says ErrInvalid.
func (c Client) CheckKeys(ctx context.Context, volume string, k Keys) error {
	raw := k.raw()
	defer clear(raw)
	_, err := c.call(ctx, call{Op: "check-keys", Volume: volume}, raw)
	return err
}

// Grow is Mounter.Grow.
func (c Client) Grow(ctx context.Context, volume string) (int64, error) {
	r, err := c.call(ctx, call{Op: "grow", Volume: volume}, nil)
	return r.SizeBytes, err
}

// Stats is Mounter.Stats.
func (c Client) Stats(ctx context.Context, volume string) (control.Stats, error) {
	r, err := c.call(ctx, call{Op: "stats", Volume: volume}, nil)
	if err == nil && r.Stats == nil {
		err = errors.New("mounter sent no statistics")
	}
	if err != nil {
		return control.Stats{}, err
	}
	return *r.Stats, nil
}

// Health is Mounter.Health.
func (c Client) Health(ctx context.Context, volume string) (Info, error) {
	r, err := c.call(ctx, call{Op: "health", Volume: volume}, nil)
	if err == nil && r.Health == nil {
		err = errors.New("mounter sent no health")
	}
	if err != nil {
		return Info{}, err
	}
	return *r.Health, nil
}

// List is Mounter.List.
func (c Client) List(ctx context.Context) ([]Info, error) {
	r, err := c.call(ctx, call{Op: "list"}, nil)
	return r.List, err
}

// Quit lets the mounter end if it has no volume; tells whether it does.
func (c Client) Quit(ctx context.Context) (bool, error) {
	r, err := c.call(ctx, call{Op: "quit"}, nil)
	return r.Idle, err
}

// Ping tells whether the mounter answers.
func (c Client) Ping(ctx context.Context) error {
	_, err := c.call(ctx, call{Op: "ping"}, nil)
	return err
}
