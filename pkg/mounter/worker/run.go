package worker

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
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/handover"
	"github.com/sealvol/sealvol/pkg/mounter/pacing"
	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
	"github.com/sealvol/sealvol/pkg/requestid"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore/storerpc"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

const (
	// startTimeout bounds how long the keys may take. A frozen volume may delay them.
	startTimeout = 5 * time.Minute
	// linger is how long the result waits for somebody.
	linger = 10 * time.Minute
	// storeMemory bounds the objects on the way to and from the store.
	storeMemory = 96 << 20

	maxHandshake = 128 << 10
)

// Run is the process of a snapshot worker, which a mounter has started. It returns when the job has
// ended and somebody has got its result.
func Run(ctx context.Context, job Job) error {
	signal.Ignore(syscall.SIGPIPE) // a worker must not end because its log lost its reader
	for fd := workerctl.FDHandshake; fd < workerctl.FDEnd; fd++ {
		unix.CloseOnExec(fd)
	}
	hand, err := connOf(workerctl.FDHandshake)
	if err != nil {
		return fmt.Errorf("snapshot worker: %w (the mounter starts this command; do not run it by hand)", err)
	}
	defer hand.Close()
	r := &run{ended: make(chan struct{}), collected: make(chan struct{}, 1)}
	if err := r.start(ctx, hand); err != nil {
		return errors.Join(err, send(hand, workerctl.Step{Error: err.Error()}))
	}
	// The mounter may be gone. The next one finds the process, and asks on the control socket.
	_ = send(hand, workerctl.Step{Step: workerctl.StepStarted})
	hand.Close()
	controlCtx, endControl := context.WithCancel(context.WithoutCancel(ctx))
	defer endControl()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := control.Serve(controlCtx, r.listen, r.mux()); err != nil {
			r.log.Error("control socket failed", "error", err)
		}
	})
	r.do(ctx, job)
	r.linger(ctx)
	endControl()
	wg.Wait() // those who wait get the result
	return nil
}

// run is one job.
type run struct {
	log     *slog.Logger
	cfg     workerctl.Config
	volume  *handover.Volume
	secrets *handover.Secrets
	device  *device.File
	server  *net.UnixConn // to the mount server
	listen  *net.UnixListener
	store   *Store
	pacer   *pacing.Pacer

	ended     chan struct{} // closed when the job has ended
	collected chan struct{} // gets a value when somebody has the result

	mu       sync.Mutex
	progress workerctl.Progress // guarded by mu, as all below
	result   json.RawMessage
	outcome  workerctl.Outcome
	message  string
}

// start confines the process, and gets configuration, descriptors and keys.
func (r *run) start(ctx context.Context, hand *net.UnixConn) error {
	if err := receive(hand, &r.cfg); err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	r.log = requestid.Logger(nil)
	if err := harden(&r.cfg); err != nil {
		return err
	}
	if err := checkConfined(); err != nil {
		return err
	}
	if err := r.open(); err != nil {
		return err
	}
	if err := send(hand, workerctl.Step{Step: workerctl.StepConfined}); err != nil {
		return err
	}
	return r.readKeys(ctx)
}

// open takes the descriptors.
func (r *run) open() (err error) {
	dev := os.NewFile(workerctl.FDDevice, "device")
	if r.device, err = device.NewFile(dev, device.OpenOptions{ReadOnly: true, Shared: true}); err != nil {
		return fmt.Errorf("device: %w", err)
	}
	if r.server, err = connOf(workerctl.FDKeys); err != nil {
		return fmt.Errorf("socket to the mount server: %w", err)
	}
	lf := os.NewFile(workerctl.FDControl, "control")
	l, err := net.FileListener(lf)
	lf.Close()
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return errors.New("the control descriptor is not a unix socket")
	}
	ul.SetUnlinkOnClose(false)
	r.listen = ul
	conn, err := connOf(workerctl.FDStore)
	if err != nil {
		return fmt.Errorf("socket to the store: %w", err)
	}
	r.pacer = pacing.NewPacer(r.cfg.Start.BytesPerSecond)
	r.store = NewStore(StorePatience, storerpc.ClientOptions{MemoryBytes: storeMemory})
	return r.store.Attach(conn)
}

// readKeys reads the keys that the mount server and the caller send.
func (r *run) readKeys(ctx context.Context) (err error) {
	if err := unix.SetNonblock(workerctl.FDSecrets, true); err != nil { // so that the deadline works
		return err
	}
	pipe := os.NewFile(workerctl.FDSecrets, "secrets")
	defer pipe.Close()
	deadline := time.Now().Add(startTimeout)
	if err := errors.Join(pipe.SetReadDeadline(deadline), r.server.SetReadDeadline(deadline)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		_ = pipe.SetReadDeadline(time.Unix(1, 0))
		_ = r.server.SetReadDeadline(time.Unix(1, 0))
	})
	defer stop()
	if r.volume, err = handover.ReadVolume(r.server); err != nil {
		return err
	}
	if r.secrets, err = handover.ReadSecrets(pipe); err != nil {
		return err
	}
	return r.server.SetReadDeadline(time.Time{})
}

// do runs the job, and releases everything that it used.
func (r *run) do(ctx context.Context, job Job) {
	ctx = requestid.With(ctx, r.cfg.RequestID)
	governed := make(chan struct{})
	go func() {
		defer close(governed)
		if err := follow(r.server, r.pacer); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
			r.log.WarnContext(ctx, "the mount server no longer says how busy the volume is", "error", err)
		}
	}()
	r.log.InfoContext(ctx, "storing a snapshot", "volume", r.cfg.Start.Volume, "snapshot", r.cfg.Start.ID)
	err := job(ctx, r.env(ctx))
	r.volume.Erase()
	r.secrets.Erase()
	_ = r.store.Close() // all that matters was answered
	// The mount server must know that the local snapshot is not read before anybody hears that the
	// job has ended.
	_ = r.device.Close()
	r.server.Close()
	<-governed
	r.mu.Lock()
	r.outcome = outcome(err, ctx.Err() != nil)
	if err != nil {
		r.message, r.result = err.Error(), nil
	}
	r.mu.Unlock()
	if err != nil {
		r.log.WarnContext(ctx, "the snapshot was not stored", "volume", r.cfg.Start.Volume, "snapshot", r.cfg.Start.ID, "outcome", string(r.outcome), "error", err)
	} else {
		r.log.InfoContext(ctx, "the snapshot is stored", "volume", r.cfg.Start.Volume, "snapshot", r.cfg.Start.ID)
	}
	close(r.ended)
}

// follow adjusts a pacer to what the mount server says, until it ends or says something else.
func follow(server io.Reader, p *pacing.Pacer) error {
	g := pacing.NewGovernor(p)
	defer g.Free()
	for {
		l, err := handover.ReadLoad(server)
		if err != nil {
			g.Free()
			_, _ = io.Copy(io.Discard, server) // of another version: the socket must not fill up
			return err
		}
		g.Next(l)
	}
}

func (r *run) env(ctx context.Context) Env {
	return Env{ID: r.cfg.Start.ID, BaseID: r.cfg.Start.Base, Device: pacing.Device(ctx, r.device, r.pacer), Volume: r.volume, Secrets: r.secrets,
		Store: r.store, Params: r.cfg.Start.Params, Log: r.log,
		Progress: func(p workerctl.Progress) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.progress = p
		},
		Result: func(b json.RawMessage) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.result = b
		}}
}

// linger waits until somebody has the result.
func (r *run) linger(ctx context.Context) {
	t := time.NewTimer(linger)
	defer t.Stop()
	select {
	case <-r.collected:
	case <-ctx.Done():
	case <-t.C:
	}
}

// mux returns the requests of the control socket.
func (r *run) mux() control.Mux {
	return control.Mux{
		workerctl.OpStatus: func(context.Context, *control.Call) (any, error) { return r.status(), nil },
		workerctl.OpStore: func(_ context.Context, c *control.Call) (any, error) {
			conn, err := connFrom(c.File())
			if err != nil {
				return nil, control.WithCode(control.CodeMalformed, err)
			}
			return nil, r.store.Attach(conn)
		},
		workerctl.OpWait: func(ctx context.Context, _ *control.Call) (any, error) {
			select {
			case <-r.ended:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			select {
			case r.collected <- struct{}{}:
			default:
			}
			return r.status(), nil
		},
	}
}

// status returns the state of the job.
func (r *run) status() workerctl.Status {
	p := r.pacer.Pace()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := workerctl.Status{ID: r.cfg.Start.ID, PID: os.Getpid(), Outcome: r.outcome, Message: r.message, Progress: r.progress,
		BytesRead: p.Bytes, BytesPerSecond: p.Recent, LimitPerSecond: p.Limit, Slowed: p.Slowed,
		UpdatedMillis: time.Now().UnixMilli(), Limits: r.cfg.Limits, Result: r.result}
	if r.outcome == workerctl.Running && !r.store.Connected() {
		s.NoStore, s.Message = true, "waiting for a new connection to the store"
	}
	return s
}

// connOf returns the connection of a descriptor, and closes the descriptor.
func connOf(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	return connFrom(f)
}

// connFrom returns a connection with a duplicate of a descriptor.
func connFrom(f *os.File) (*net.UnixConn, error) {
	if f == nil {
		return nil, errors.New("the request needs a socket")
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("the descriptor is not a unix socket")
	}
	return u, nil
}

func send(c net.Conn, m any) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = c.Write(append(b, '\n'))
	return err
}

// receive reads a line. Only one is ever sent.
func receive(c net.Conn, m any) error {
	line, err := bufio.NewReaderSize(c, maxHandshake).ReadSlice('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(line, m)
}
