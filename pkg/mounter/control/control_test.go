package control

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
func (f fake) Unmount(context.Context) error { return errors.New("device gone") }

func serve(t *testing.T, path string, f fake) Client {
	t.Helper()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Serve(ctx, l, f) }()
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
	if err := c.Unmount(ctx); !errors.Is(err, ErrServer) || !strings.Contains(err.Error(), "device gone") {
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
	_, _ = conn.Write([]byte(strings.Repeat("x", 2*maxRequest))) // the server may hang up amidst
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Fatal("an endless request was answered")
	}
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
