package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/fusefs/fusefstest"
)

// TestSnapshotOfMapped: a CSI snapshot contains what a program has stored through a mapping that
// still exists, even if another program has a lease on a file.
func TestSnapshotOfMapped(t *testing.T) {
	t.Setenv(envEngine, "1")
	r := newRig(t)
	r.start("all", 0)
	r.connect("all", "all")
	w := &workflow{r: r}
	w.run(w.up())
	path := filepath.Join(w.target(), "file")
	if out, err := exec.Command("truncate", "-s", "64K", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m := fusefstest.NewMapper(t)
	want := bytes.Repeat([]byte("stored"), 10000)
	m.Map(path, 64<<10).Store(0, want)
	leased, err := os.Create(filepath.Join(w.target(), "leased"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(leased.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Fatal(err)
	}
	s, err := w.snapshot("snap")
	leased.Close() // ends the lease
	if err != nil {
		t.Fatal(err)
	}
	c := w.copyOf("copy", fromSnapshot(s.GetSnapshotId()), 0)
	c.run(c.up())
	got, err := os.ReadFile(filepath.Join(c.target(), "file"))
	if err != nil || !bytes.HasPrefix(got, want) {
		t.Errorf("the snapshot has %d bytes, %d of them stored through the mapping, %v", len(got), len(got)-bytes.Count(got, []byte{0}), err)
	}
	m.End()
	c.run(c.down())
	w.run(w.down())
}
