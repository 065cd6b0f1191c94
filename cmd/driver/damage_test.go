package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter"
)

// TestDamageIsReported: reading damaged data returns an I/O error, only for that data, and the
// volume's health reports it.
func TestDamageIsReported(t *testing.T) {
	t.Setenv(envEngine, "1")
	r := newRig(t)
	r.start("all", 0)
	r.connect("all", "all")
	w := &workflow{r: r}
	w.run(w.up())
	w.run(w.down()[:2])
	image := r.path("local/images/" + w.id + ".img")
	before, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	w.run(w.up())
	data := make([]byte, 4<<20)
	rand.Read(data)
	for _, name := range []string{"large", "other"} {
		if err := os.WriteFile(filepath.Join(w.target(), name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.run(w.down()[:2])
	spoil(t, image, before)
	w.run(w.up())
	m := mounter.Client{Socket: mounter.SocketPath(r.path("mounter"))}
	health := func() []string {
		t.Helper()
		h, err := m.Health(r.ctx(), w.id)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, c := range h.Conditions {
			if !c.Lost || c.Inaccessible {
				t.Errorf("%+v", c)
			}
			all = append(all, c.Reason)
		}
		return all
	}
	if h := health(); len(h) != 0 {
		t.Error("before anybody met it:", h)
	}
	failed := 0
	for _, name := range []string{"large", "other"} {
		got, err := os.ReadFile(filepath.Join(w.target(), name))
		if errors.Is(err, unix.EIO) {
			failed++
		} else if err != nil || !bytes.HasPrefix(data, got) || len(got) == 0 {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if failed != 1 {
		t.Errorf("%d files are damaged", failed)
	}
	if h := health(); len(h) != 1 || h[0] != "DamagedData" {
		t.Error(h)
	}
	w.run(w.down())
	r.wantClean()
}

// spoil changes a byte in the middle of the longest run of sectors that differ from before: a
// file's data.
func spoil(t *testing.T, image string, before []byte) {
	t.Helper()
	after, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	const sector = 4096
	best, length, run := 0, 0, 0
	for off := 0; off < len(before); off += sector {
		if run++; bytes.Equal(before[off:off+sector], after[off:off+sector]) {
			run = 0
		}
		if run > length {
			best, length = off+sector, run
		}
	}
	if length < 64 {
		t.Fatalf("only %d sectors in a row have changed", length)
	}
	at := best - length/2*sector
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte{after[at+100] ^ 1}, int64(at+100))
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}
