package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
)

// TestQuiesce: while a volume is frozen, its device does not change, although programs write and
// sync; afterwards they continue. A freeze that ended early is reported.
func TestQuiesce(t *testing.T) {
	t.Setenv(envEngine, "1")
	r := newRig(t)
	r.start("all", 0)
	r.connect("all", "all")
	w := &workflow{r: r}
	quiesce := quiesceBy(r.path("mounter"))
	if _, err := quiesce(r.ctx(), "no such volume"); !errors.Is(err, backend.ErrNotAttached) {
		t.Fatal(err)
	}
	w.run(w.up())
	server := control.Client{Path: mounter.ControlPath(r.path("mounter"), w.id)}
	image := func() []byte {
		t.Helper()
		b, err := os.ReadFile(r.path("local/images/" + w.id + ".img"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	release, err := quiesce(r.ctx(), w.id)
	if err != nil {
		t.Fatal(err)
	}
	before := image()
	written := make(chan error, 1)
	go func() { written <- writeSynced(filepath.Join(w.target(), "file")) }()
	for range 50 { // each commits what there is
		if err := server.Sync(r.ctx()); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-written:
			t.Fatal("a write came through: ", err)
		default:
		}
	}
	if !bytes.Equal(before, image()) {
		t.Fatal("the device changed")
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	restEndsEarly(t, w, quiesce, server)
	w.run(w.up())
	w.run(w.down())
	r.wantClean()
}

// restEndsEarly: a freeze that ends before its release is reported.
func restEndsEarly(t *testing.T, w *workflow, quiesce backend.Quiesce, server control.Client) {
	t.Helper()
	// Another caller ends it.
	release, err := quiesce(w.r.ctx(), w.id)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Do(w.r.ctx(), control.Request{Op: "thaw", Args: volumectl.ThawArgs{}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := release(); err == nil {
		t.Fatal("a rest that was ended early is not reported")
	}
	// The server dies.
	if release, err = quiesce(w.r.ctx(), w.id); err != nil {
		t.Fatal(err)
	}
	h, err := mounter.Client{Socket: mounter.SocketPath(w.r.path("mounter"))}.Health(w.r.ctx(), w.id)
	if err != nil {
		t.Fatal(err)
	}
	kill(t, h.PID)
	if err := release(); err == nil {
		t.Fatal("a rest whose server died is not reported")
	}
}

func writeSynced(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(bytes.Repeat([]byte("data"), 1<<16))
	return errors.Join(err, f.Sync(), f.Close())
}
