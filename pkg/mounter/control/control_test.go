package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/requestid"
	"golang.org/x/sys/unix"
)

type fake struct {
	block chan struct{}
}

func (f fake) Status(context.Context) (Status, error) {
	return Status{Volume: "v", PID: 7, Conditions: []Condition{{Reason: "Sick"}}}, nil
}
func (f fake) Stats(context.Context) (Stats, error) {
	return Stats{TotalBytes: 3, UsedBytes: 2, AvailableBytes: 1}, nil
}
func (f fake) Grow(context.Context) (int64, error) { return 42, nil }
func (f fake) Sync(ctx context.Context) error {
	select {
	case <-f.block:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
func (f fake) Unmount(context.Context) error {
	return WithCode(CodeBusy, errors.New("device gone"))
}

type sumArgs struct {
	From int `json:"from"`
	To   int `json:"to"`
}

func (f fake) mux() Mux {
	m := NewMux(f)
	m["sum"] = func(_ context.Context, c *Call) (any, error) {
		var a sumArgs
		if err := c.Args(&a); err != nil {
			return nil, err
		}
		sum := 0
		for i := a.From; i < a.To; i++ {
			c.Progress(uint64(i-a.From), uint64(a.To-a.From))
			if err := c.Item(i); err != nil {
				return nil, err
			}
			sum += i
		}
		return sum, nil
	}
	m["read"] = func(_ context.Context, c *Call) (any, error) {
		if c.File() == nil {
			return nil, errors.New("no file")
		}
		b, err := io.ReadAll(c.File())
		return string(b), err
	}
	m["hang"] = func(ctx context.Context, c *Call) (any, error) {
		if err := c.Item("here"); err != nil {
			return nil, err
		}
		<-ctx.Done()
		close(f.block)
		return nil, ctx.Err()
	}
	m["long"] = func(context.Context, *Call) (any, error) { return strings.Repeat("x", maxLine), nil }
	return m
}

func serve(t *testing.T, path string, f fake) Client {
	t.Helper()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Serve(ctx, l, f.mux()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return Client{Path: path}
}

func TestCalls(t *testing.T) {
	// A path longer than sun_path.
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 100))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	f := fake{block: make(chan struct{})}
	c := serve(t, path, f)
	ctx := t.Context()
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", fi.Mode(), err)
	}
	if s, err := c.Status(ctx); err != nil || s.PID != 7 || s.Conditions[0].Reason != "Sick" {
		t.Fatalf("%+v %v", s, err)
	}
	if s, err := c.Stats(ctx); err != nil || s.TotalBytes != 3 {
		t.Fatalf("%+v %v", s, err)
	}
	if n, err := c.Grow(ctx); err != nil || n != 42 {
		t.Fatal(n, err)
	}
	if err := c.Unmount(ctx); !errors.Is(err, ErrServer) || err.Error() != "mount server: device gone" || !HasCode(err, CodeBusy) {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	if err := c.Sync(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	close(f.block)
	if err := c.Sync(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestBadRequests(t *testing.T) {
	c := serve(t, filepath.Join(t.TempDir(), "s"), fake{})
	for _, bad := range []string{"\n", "{\n", `{"op":"no"}` + "\n", `{"op":"stats","x":1}` + "\n", `{"op":"stats"} {}` + "\n", "[]\n"} {
		conn, err := DialSocket(t.Context(), c.Path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(bad)); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || !strings.Contains(line, "error") {
			t.Errorf("%q: %q %v", bad, line, err)
		}
		conn.Close()
	}
	conn, err := DialSocket(t.Context(), c.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(strings.Repeat("x", 2*maxRequest))) // the server may hang up in the middle
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Fatal("an endless request was answered")
	}
}

func TestItemsAndProgress(t *testing.T) {
	c := serve(t, filepath.Join(t.TempDir(), "s"), fake{})
	var items []string
	var progress []Progress
	var sum int
	r := Request{Op: "sum", Args: sumArgs{1, 4}, Progress: func(p Progress) { progress = append(progress, p) },
		Item: func(b json.RawMessage) error { items = append(items, string(b)); return nil }}
	if err := c.Do(t.Context(), r, &sum); err != nil || sum != 6 || strings.Join(items, " ") != "1 2 3" {
		t.Fatal(err, sum, items)
	}
	if len(progress) == 0 || progress[0] != (Progress{0, 3}) {
		t.Fatal(progress)
	}
	stop := errors.New("enough")
	r.Item = func(json.RawMessage) error { return stop }
	if err := c.Do(t.Context(), r, nil); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	if err := c.Do(t.Context(), Request{Op: "sum", Args: map[string]int{"form": 1}}, nil); !HasCode(err, CodeMalformed) {
		t.Fatal(err)
	}
	if err := c.Do(t.Context(), Request{Op: "summ"}, nil); !HasCode(err, CodeUnknown) {
		t.Fatal(err)
	}
	if err := c.Do(t.Context(), Request{Op: "long"}, nil); !errors.Is(err, ErrServer) {
		t.Fatal(err)
	}
	if err := c.Do(t.Context(), Request{Op: "status", Args: strings.Repeat("x", 2*maxRequest)}, nil); err == nil {
		t.Fatal("an endless request was answered")
	}
}

// TestFile: a descriptor reaches only the request that it came with.
func TestFile(t *testing.T) {
	c := serve(t, filepath.Join(t.TempDir(), "s"), fake{})
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got string
	if err := c.Do(t.Context(), Request{Op: "read", File: f}, &got); err != nil || got != "secret" {
		t.Fatal(got, err)
	}
	if err := c.Do(t.Context(), Request{Op: "read"}, &got); !errors.Is(err, ErrServer) {
		t.Fatal(err)
	}
}

// TestHangUp: a request ends when its caller hangs up.
func TestHangUp(t *testing.T) {
	f := fake{block: make(chan struct{})}
	c := serve(t, filepath.Join(t.TempDir(), "s"), f)
	ctx, cancel := context.WithCancel(t.Context())
	err := c.Do(ctx, Request{Op: "hang", Item: func(json.RawMessage) error { cancel(); return nil }}, nil)
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	<-f.block
}

func TestListenReplacesOnlySockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if l, err = Listen(path); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil {
		t.Fatal("replaced a file")
	}
}

// FuzzRequest: every line is answered with one line, and nothing panics.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{`{"op":"sum","args":{"from":1,"to":3}}`, `{"op":"stats"}`, `{"op":"read"}`, `{}`, `[`, `{"op":"sum","args":[1]}`, `{"op":"stats"} {}`} {
		f.Add([]byte(s))
	}
	mux := fake{}.mux()
	delete(mux, "hang")
	delete(mux, "sync")
	delete(mux, "sum")
	f.Fuzz(func(t *testing.T, line []byte) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		var ends [2]*net.UnixConn
		for i, fd := range fds {
			file := os.NewFile(uintptr(fd), "socket")
			c, err := net.FileConn(file)
			file.Close()
			if err != nil {
				t.Fatal(err)
			}
			ends[i] = c.(*net.UnixConn)
			defer c.Close()
		}
		if _, err := (&Call{c: ends[0]}).answer(t.Context(), line, mux); err != nil {
			t.Fatal(err)
		}
		r := lineReader{c: ends[1], max: maxLine}
		got, _, err := r.next()
		var a answer
		if err != nil || json.Unmarshal(got, &a) != nil || (a.Error == nil) == (a.Result == nil) {
			t.Fatalf("%q: %v", got, err)
		}
	})
}

// lines collects the log of a test.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A request that belongs to a call logs a line with the call's id, also if it sends a descriptor.
// Requests of no call are not logged, and the id of one caller does not leak to the next.
func TestRequestID(t *testing.T) {
	var out lines
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&out, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	c := serve(t, filepath.Join(t.TempDir(), "s"), fake{})
	call := requestid.With(t.Context(), "call-7")
	if _, err := c.Grow(call); err != nil {
		t.Fatal(err)
	}
	if err := c.Unmount(call); !HasCode(err, CodeBusy) {
		t.Fatal(err)
	}
	f, err := os.Open("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var text string
	if err := c.Do(call, Request{Op: "read", File: f}, &text); err != nil || text == "" {
		t.Fatal(text, err)
	}
	if _, err := c.Grow(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(got) != 3 || strings.Count(out.String(), requestid.Key+"=call-7") != 3 || !strings.Contains(got[0], "op=grow") ||
		!strings.Contains(got[1], "level=WARN") || !strings.Contains(got[1], `error="device gone"`) {
		t.Error(out.String())
	}
}

// A server of a version without request ids refuses the id, and answers the next request.
func TestRequestIDOlderServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan string, 2)
	go func() {
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		for in := bufio.NewScanner(conn); in.Scan(); {
			asked <- in.Text()
			reply := `{"error":{"code":"unknown","message":"unknown request"}}`
			if in.Text() == `{"op":"grow"}` {
				reply = `{"result":{"sizeBytes":42}}`
			}
			if _, err := conn.Write([]byte(reply + "\n")); err != nil {
				return
			}
		}
	}()
	if n, err := (Client{Path: path}).Grow(requestid.With(t.Context(), "call-7")); err != nil || n != 42 {
		t.Fatal(n, err)
	}
	if first := <-asked; first != `{"op":"request-id","args":{"id":"call-7"}}` {
		t.Error(first)
	}
}
