package mounter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/requestid"
)

// Limits of the mounter's socket.
const (
	maxConns    = 256 // a node that starts mounts all its volumes at once, up to 128
	readTimeout = 10 * time.Second
	ownTimeout  = 15 * time.Second // for the previous mounter to end
)

// Run is the mounter's service. It serves SocketPath(opt.StateDir) until ctx ends, or until a
// caller's Quit finds it idle. Mount servers keep running without it.
func Run(ctx context.Context, opt Options) (err error) {
	signal.Ignore(syscall.SIGPIPE) // the mounter must not end because its log lost its reader
	// Whoever started the mounter may have left descriptors open. Servers and workers must not get
	// them. (The mounter's own are closed on exec, too, as Go opens them.)
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close_range: %w", err)
	}
	// If another mounter runs, fail after a while: a second mounter that was started by mistake
	// must not wait for it for ever.
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
		l.Close() // close it now: a caller that hears that the mounter ends must not reach it any more
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

// syncAll makes all servers write their data.
func (m *Mounter) syncAll() {
	ctx, cancel := context.WithTimeout(context.Background(), m.opt.StopTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, i := range m.List(ctx) {
		if !i.Alive {
			continue
		}
		wg.Go(func() {
			// Not through Mounter.server, which waits for running operations on the volume.
			if err := (control.Client{Path: ControlPath(m.opt.StateDir, i.Volume)}).Sync(ctx); err != nil {
				m.opt.Log.Error("cannot write all data before the shutdown: writes that were not synced may be lost when the mount server ends", "volume", i.Volume, "error", err)
			}
		})
	}
	wg.Wait()
}

type service struct {
	m    *Mounter
	quit func()
	busy atomic.Int64 // running mounts and unmounts
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
	from := &fileReader{c: c}
	defer from.close()
	e, secret, err := from.frame(&in)
	defer clear(secret)
	ctx = requestid.With(ctx, e.RequestID)
	var out reply
	if err == nil {
		// The operation continues without its caller, who will retry it: a half-finished mount is
		// of no use. It also continues when the mounter is asked to end; its timeouts bound it.
		begin := time.Now()
		if in.isSnapshot() {
			out, err = s.snapshot(context.WithoutCancel(ctx), in, from)
		} else {
			out, err = s.answer(context.WithoutCancel(ctx), in, secret)
		}
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

// logged logs a request: failures as warnings. What a request changes has a log line of its own, so
// everything else is logged at debug level.
func (s *service) logged(ctx context.Context, in call, begin time.Time, err error) {
	level := slog.LevelDebug
	attrs := []slog.Attr{slog.String("op", in.Op), slog.String("took", time.Since(begin).Round(10*time.Microsecond).String())}
	if id := in.volume(); id != "" {
		attrs = append(attrs, slog.String("volume", id))
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
		// No warning if a volume is not mounted, has died or is blank: callers ask in order to find
		// out.
		if !errors.Is(err, ErrNotMounted) && !errors.Is(err, ErrNoWorker) && !errors.Is(err, ErrDead) && !errors.Is(err, ErrBlank) {
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

// isSnapshot tells whether a request is about a stored snapshot.
func (c call) isSnapshot() bool { return strings.HasPrefix(c.Op, "snapshot-") }

// snapshot answers a request about a stored snapshot.
func (s *service) snapshot(ctx context.Context, in call, from *fileReader) (out reply, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.m.opt.MountTimeout+s.m.opt.StopTimeout)
	defer cancel()
	switch {
	case in.Op == "snapshot-start" && in.Start != nil:
		s.busy.Add(1)
		defer s.busy.Add(-1)
		return out, s.m.StartSnapshot(ctx, *in.Start, from.file(0), from.file(1))
	case in.Op == "snapshot-store":
		return out, s.m.AttachStore(ctx, in.Volume, in.Snapshot, from.file(0))
	case in.Op == "snapshot-cancel":
		return out, s.m.CancelSnapshot(ctx, in.Volume, in.Snapshot)
	case in.Op == "snapshot-status":
		st, err := s.m.SnapshotStatus(ctx, in.Volume)
		out.Job = &st
		return out, err
	}
	return out, fmt.Errorf("%w: unknown operation", ErrInvalid)
}
