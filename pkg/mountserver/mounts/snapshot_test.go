package mounts

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
)

// serve answers requests on a control socket until the test ends.
func serve(t *testing.T, m control.Mux) control.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	l, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.Serve(ctx, l, m) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return control.Client{Path: path}
}

// TestWaitSnapshotReleased: success is reported only if no server holds the snapshot any more.
func TestWaitSnapshotReleased(t *testing.T) {
	answer := func(err error) control.Mux {
		return control.Mux{"snapshot-unmount": func(context.Context, *control.Call) (any, error) { return nil, err }}
	}
	hang := control.Mux{"snapshot-unmount": func(ctx context.Context, _ *control.Call) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	dead := filepath.Join(t.TempDir(), "dead")
	l, err := control.Listen(dead)
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for name, c := range map[string]struct {
		client control.Client
		limit  time.Duration
		asked  bool
		want   error
	}{
		"released":         {serve(t, answer(nil)), time.Hour, true, nil},
		"another server":   {serve(t, answer(control.WithCode(volumectl.CodeNotFound, errors.New("x")))), time.Hour, false, nil},
		"an older version": {serve(t, control.Mux{}), time.Hour, false, nil},
		"busy":             {serve(t, answer(control.WithCode(control.CodeBusy, errors.New("x")))), time.Hour, true, control.ErrServer},
		"failed":           {serve(t, answer(errors.New("x"))), time.Hour, true, control.ErrServer},
		"never":            {serve(t, hang), 10 * time.Millisecond, true, context.DeadlineExceeded},
		"killed":           {control.Client{Path: dead}, time.Hour, false, nil},
		"ended":            {control.Client{Path: dead + "x"}, time.Hour, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			asked, err := waitSnapshotReleased(t.Context(), c.client, volumectl.SnapshotArgs{Dir: "/mnt", Connection: 7}, c.limit)
			if asked != c.asked || !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("asked %v, %v", asked, err)
			}
			if err != nil && !errors.Is(err, ErrNotReleased) {
				t.Error(err)
			}
		})
	}
}

// TestOlderServer: a server that does not know the connection gets the request without it, and its
// descriptor.
func TestOlderServer(t *testing.T) {
	got := make(chan string, 1)
	c := serve(t, control.Mux{"snapshot-mount": func(_ context.Context, c *control.Call) (any, error) {
		var a struct{ Name, Dir string }
		if err := c.Args(&a); err != nil {
			return nil, err
		}
		if c.File() == nil {
			return nil, errors.New("no descriptor")
		}
		got <- a.Name + a.Dir
		return nil, nil
	}})
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := doSnapshot(t.Context(), c, "snapshot-mount", volumectl.SnapshotArgs{Name: "one", Dir: "/mnt", Connection: 7}, f); err != nil {
		t.Fatal(err)
	}
	if a := <-got; a != "one/mnt" {
		t.Errorf("the server was asked for %q", a)
	}
}
