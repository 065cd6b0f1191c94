package mountserver

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// windowLog holds whoever derives a logger for a snapshot: mountSnapshot does so after it has opened
// the snapshot and before it has registered it.
type windowLog struct {
	slog.Handler
	open func()
}

func (w windowLog) WithAttrs([]slog.Attr) slog.Handler {
	w.open()
	return w.Handler
}

// openWritten opens a new volume with a snapshot "one" and a file "late", which is acknowledged and
// not yet committed.
func openWritten(t *testing.T, path string, log *slog.Logger) *Server {
	t.Helper()
	dev := openDevice(t, path)
	cred := crypto.SecretCredential(secret(t, 7))
	defer cred.Erase()
	if err := volume.Format(dev, volume.FormatOptions{Recipient: cred, RootMode: 0o777}); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Options{Device: dev, Keys: []crypto.Credential{cred}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.vol.CreateSnapshot("one"); err != nil {
		t.Fatal(err)
	}
	a, err := s.vol.Mknod(&vfs.Req{}, vfs.RootIno, "late", unix.S_IFREG|0o644, 0)
	if err == nil {
		_, err = s.vol.Write(&vfs.Req{}, a.Ino, 0, []byte("data"), false)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// checkWritten fails unless the device is free and holds the file "late".
func checkWritten(t *testing.T, path string) {
	t.Helper()
	dev := openDevice(t, path)
	defer closeDevice(t, dev)
	cred := crypto.SecretCredential(secret(t, 7))
	defer cred.Erase()
	v, err := volume.Open(dev, volume.Options{Credential: cred, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	a, err := v.Lookup(vfs.RootIno, "late")
	if err == nil {
		_, err = v.Read(a.Ino, 0, got)
	}
	if err != nil || string(got) != "data" {
		t.Errorf("acknowledged data is lost: %q, %v", got, err)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
}

// TestCloseWhileSnapshotOpens: a server that ends while a snapshot is being opened waits for it, and
// commits everything. The volume would not close beneath an open snapshot.
func TestCloseWhileSnapshotOpens(t *testing.T) {
	path := blankDevice(t)
	opened, closed := make(chan struct{}), make(chan error, 1)
	early := false
	s := openWritten(t, path, slog.New(windowLog{slog.DiscardHandler, func() {
		close(opened)
		select {
		case err := <-closed:
			early = true
			closed <- err
		case <-time.After(300 * time.Millisecond): // Close is waiting
		}
	}}))
	r, w, err := os.Pipe() // instead of a FUSE connection
	if err != nil {
		t.Fatal(err)
	}
	w.Close() // whoever reads from it gets the end of the connection
	defer r.Close()
	mounted := make(chan error, 1)
	go func() { mounted <- s.mountSnapshot(volumectl.SnapshotArgs{Name: "one", Dir: t.TempDir()}, r) }()
	<-opened
	go func() { closed <- s.Close() }()
	if err := <-mounted; err == nil {
		t.Error("mounted on a pipe")
	}
	if err := <-closed; err != nil {
		t.Error("Close:", err)
	}
	if early {
		t.Error("the server closed the device while a snapshot was being opened")
	}
	checkWritten(t, path)
	if err := s.mountSnapshot(volumectl.SnapshotArgs{Name: "one", Dir: t.TempDir()}, r); !errors.Is(err, errEnding) {
		t.Error("mount a snapshot of a closed volume:", err)
	}
}

// TestCloseBeneathSnapshot: even if a snapshot stays open by mistake, a server that ends commits
// everything, also in a freeze.
func TestCloseBeneathSnapshot(t *testing.T) {
	for name, freeze := range map[string]bool{"": false, "frozen": true} {
		t.Run(name, func(t *testing.T) {
			path := blankDevice(t)
			s := openWritten(t, path, slog.New(slog.DiscardHandler))
			if _, _, err := s.vol.OpenSnapshot("one"); err != nil {
				t.Fatal(err)
			}
			if freeze {
				if _, err := s.vol.Freeze(context.Background(), time.Hour); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			checkWritten(t, path)
		})
	}
}

// TestEqualPaths: snapshots that are mounted on equal paths in several mount namespaces are told apart
// by their connections. With a caller or a mount of an older version, the path decides.
func TestEqualPaths(t *testing.T) {
	first, second := &view{dir: "/mnt", conn: 1}, &view{dir: "/mnt", conn: 2}
	unknown, elsewhere := &view{dir: "/mnt"}, &view{dir: "/else", conn: 3}
	var v views
	for _, m := range []*view{first, second, elsewhere} {
		v.add(m)
	}
	for range 20 { // the order of a map is random
		if got := v.on("/mnt", 1); got != first {
			t.Error("the first:", got)
		}
		if got := v.on("/mnt", 2); got != second {
			t.Error("the second:", got)
		}
		if got := v.on("/mnt", 3); got != nil {
			t.Error("none has this connection:", got)
		}
		if got := v.on("/else", 0); got != elsewhere {
			t.Error("an older caller:", got)
		}
	}
	v.add(unknown)
	for range 20 {
		if got := v.on("/mnt", 3); got != unknown {
			t.Error("the mount of an older caller:", got)
		}
		if got := v.on("/mnt", 0); got != unknown {
			t.Error("an older caller unmounts what it mounted:", got)
		}
	}
}
