package control

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/sealvol/sealvol/pkg/requestid"
)

// lastAnswer bounds how long a caller may take to read a line, and its answer when the server ends,
// so that a caller that does not read blocks nobody.
const lastAnswer = 10 * time.Second

// progressEvery is how often a caller gets progress.
const progressEvery = 200 * time.Millisecond

// Serve answers on l until ctx ends or l is closed, and returns when no handler runs any more. The
// request id of ctx does not apply to the requests.
func Serve(ctx context.Context, l *net.UnixListener, m Mux) error {
	ctx, cancel := context.WithCancel(requestid.Without(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	slots := make(chan struct{}, maxConns)
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		select {
		case slots <- struct{}{}:
		default:
			c.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			serveConn(ctx, c, m)
		})
	}
}

// incoming is a request as it was received.
type incoming struct {
	line []byte
	file *os.File
}

func serveConn(ctx context.Context, c *net.UnixConn, m Mux) {
	defer c.Close()
	// At the end, accept no more requests, but let callers that wait get their answers: an Unmount
	// request is what ends the server.
	stop := context.AfterFunc(ctx, func() { _ = c.CloseRead() })
	defer stop()
	if CheckPeer(c) != nil {
		return
	}
	// Keep reading while a request is answered, because a caller gives up by hanging up.
	alive, hungUp := context.WithCancel(ctx)
	defer hungUp()
	in := make(chan incoming)
	go func() {
		defer hungUp()
		defer close(in)
		r := lineReader{c: c, max: maxRequest}
		defer r.close()
		for {
			line, f, err := r.next()
			if err != nil {
				return
			}
			select {
			case in <- incoming{line, f}:
			case <-alive.Done():
				if f != nil {
					f.Close()
				}
				return
			}
		}
	}()
	named := alive
	for req := range in {
		call := &Call{file: req.file, c: c}
		id, err := call.answer(named, req.line, m)
		call.closeFile()
		if id != "" {
			named = requestid.With(alive, id)
		}
		if err != nil {
			hungUp() // ends the reader, and with it the loop
			_ = c.CloseRead()
		}
	}
}

// Call is one request. Its methods are not for concurrent use, except Progress.
type Call struct {
	args json.RawMessage
	file *os.File
	c    *net.UnixConn

	mu   sync.Mutex // guards writing a line
	told time.Time  // when progress was last sent
}

// Args decodes the request's arguments strictly.
func (c *Call) Args(v any) error {
	args := c.args
	if len(args) == 0 {
		args = json.RawMessage("{}")
	}
	if err := decode(args, v); err != nil {
		return WithCode(CodeMalformed, errors.New("malformed arguments"))
	}
	return nil
}

// File is the descriptor that came with the request, or nil. It is closed after the request.
func (c *Call) File() *os.File { return c.file }

// Item sends one item of an answer.
func (c *Call) Item(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.send(&answer{Item: b})
}

// Progress tells the caller from time to time how far the request is. It may be called concurrently
// with anything.
func (c *Call) Progress(done, total uint64) {
	c.mu.Lock()
	late := time.Since(c.told) >= progressEvery
	if late {
		c.told = time.Now()
	}
	c.mu.Unlock()
	if late {
		_ = c.send(&answer{Progress: &Progress{done, total}}) // the reader notices a caller that hung up
	}
}

func (c *Call) closeFile() {
	if c.file != nil {
		c.file.Close()
	}
}

func (c *Call) send(a *answer) error {
	b, err := json.Marshal(a)
	if err == nil && len(b) >= maxLine {
		err = errors.New("the answer is too long")
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.c.SetWriteDeadline(time.Now().Add(lastAnswer)); err != nil {
		return err
	}
	_, err = c.c.Write(append(b, '\n'))
	return err
}

// answer executes a request. An error means that nothing more can be sent. id is the call that the
// request names for those after it.
func (c *Call) answer(ctx context.Context, line []byte, m Mux) (id string, err error) {
	var req request
	if decode(line, &req) != nil {
		return "", c.send(&answer{Error: &Error{CodeMalformed, "malformed request"}})
	}
	c.args = req.Args
	if req.Op == opName {
		var n nameArgs
		if c.Args(&n) != nil || !requestid.Valid(n.ID) {
			return "", c.send(&answer{Error: &Error{CodeMalformed, "malformed request id"}})
		}
		return n.ID, c.send(&answer{Result: json.RawMessage("{}")})
	}
	fn := m[req.Op]
	if fn == nil {
		return "", c.send(&answer{Error: &Error{CodeUnknown, "unknown request"}})
	}
	begin := time.Now()
	result, err := fn(ctx, c)
	logged(ctx, req.Op, begin, err)
	return "", c.finish(result, err)
}

// finish sends the last line of an answer.
func (c *Call) finish(result any, err error) error {
	if err != nil {
		e := &Error{Message: err.Error()}
		var code *coded
		if errors.As(err, &code) {
			e.Code = code.code
		}
		return c.send(&answer{Error: e})
	}
	if result == nil {
		result = struct{}{}
	}
	b, err := json.Marshal(result)
	if err != nil {
		return c.send(&answer{Error: &Error{Message: err.Error()}})
	}
	if err := c.send(&answer{Result: b}); err != nil {
		return c.send(&answer{Error: &Error{Message: err.Error()}})
	}
	return nil
}

// logged logs a finished request. Requests that come every few seconds, and requests without a call
// id (a command reports to its user itself), are logged at debug level.
func logged(ctx context.Context, op string, begin time.Time, err error) {
	level := slog.LevelDebug
	attrs := []slog.Attr{slog.String("op", op), slog.String("took", time.Since(begin).Round(10*time.Microsecond).String())}
	if requestid.From(ctx) != "" && op != "status" && op != "stats" {
		level = slog.LevelInfo
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
		if level == slog.LevelInfo {
			level = slog.LevelWarn
		}
	}
	requestid.Logger(nil).LogAttrs(ctx, level, "control request", attrs...)
}
