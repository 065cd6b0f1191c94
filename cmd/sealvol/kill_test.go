package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/atomicfile"
	"github.com/sealvol/sealvol/pkg/mounter/control"
)

// TestKill kills the server of a mount, again and again, while programs write
// and sync. What a program was told is on the volume has to be there.
func TestKill(t *testing.T) {
	rounds := 10
	if testing.Short() {
		rounds = 2
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	work, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir, img, key := filepath.Join(work, "m"), filepath.Join(work, "v.img"), filepath.Join(work, "k")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	sealvol := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("sealvol", args...).CombinedOutput(); err != nil {
			t.Fatalf("sealvol %v: %v: %s", args[0], err, out)
		}
	}
	timer := time.AfterFunc(scriptDeadline, func() { abortAll(work) })
	t.Cleanup(func() {
		timer.Stop()
		abortAll(work)
		unmountAll(t, work)
	})
	sealvol("key", "generate", key)
	sealvol("mkfs", "--key-file", key, "--size", "256MiB", img)
	writers := []*killWriter{{kind: "append"}, {kind: "slots"}, {kind: "replace"}, {kind: "small"}}
	rng := rand.New(rand.NewPCG(seed, 1))
	for i, w := range writers {
		w.dir, w.rng = dir, rand.New(rand.NewPCG(seed, uint64(10+i)))
	}
	for round := range rounds {
		sealvol("mount", "--key-file", key, "--memory", "32MiB", img, dir)
		for _, w := range writers {
			if err := w.check(); err != nil {
				t.Fatalf("round %d, %s: %v", round, w.kind, err)
			}
		}
		killServer(t, dir, writers, int64(20+rng.IntN(200)), fmt.Sprint("round ", round))
		if t.Failed() {
			return
		}
		sealvol("fsck", "--key-file", key, img)
	}
	sealvol("mount", "--key-file", key, img, dir)
	for _, w := range writers {
		if err := w.check(); err != nil {
			t.Fatalf("at the end, %s: %v", w.kind, err)
		}
	}
	sealvol("umount", dir)
	sealvol("fsck", "--key-file", key, img)
}

// killServer kills the server of a mount once the writers have synced so many changes, and waits
// for its end.
func killServer(t *testing.T, dir string, writers []*killWriter, enough int64, when string) {
	t.Helper()
	c, err := control.Find(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := shortTime()
	s, err := c.Status(ctx)
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := unix.PidfdOpen(s.PID, 0)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var acks atomic.Int64
	for _, w := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				if err := w.step(); err != nil {
					if !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.EIO) {
						t.Errorf("%s, %s: %v", when, w.kind, err)
					}
					return
				}
				if acks.Add(1) == enough {
					if err := unix.PidfdSendSignal(pid, unix.SIGKILL, nil, 0); err != nil {
						t.Error(err)
					}
				}
			}
		}()
	}
	wg.Wait()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pid), Events: unix.POLLIN}}, int(scriptDeadline.Milliseconds()))
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			break
		}
		if err == nil {
			t.Fatal("the server does not die")
		}
	}
	unix.Close(pid)
}

// killWriter changes one file and knows what of it must survive.
type killWriter struct {
	kind, dir string
	rng       *rand.Rand

	size, acked int64         // append: bytes written, and synced
	slots       [64][2]uint64 // slots: version written, and synced
	version     [2]uint64     // replace, small: the same
}

func (w *killWriter) path() string { return filepath.Join(w.dir, w.kind) }

// pattern is what an appended file has from an offset on.
func pattern(b []byte, off int64) {
	for i := range b {
		x := uint64(off+int64(i)) * 0x9e3779b97f4a7c15
		b[i] = byte(x >> 56)
	}
}

// whole is the content of a version.
func (w *killWriter) whole(v uint64) []byte {
	n := 1 + int(v*7919%150000)
	if w.kind == "small" {
		n = 1 + int(v*31%3000)
	}
	b := bytes.Repeat([]byte{byte(v)}, n+8)
	binary.LittleEndian.PutUint64(b, v)
	return b
}

// step makes one change and syncs it.
func (w *killWriter) step() error {
	if w.kind == "replace" || w.kind == "small" {
		return w.replace()
	}
	f, err := os.OpenFile(w.path(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if w.kind == "append" {
		return w.append(f)
	}
	return w.overwrite(f)
}

// replace writes a new file in the place of the old one.
func (w *killWriter) replace() error {
	w.version[0]++
	if err := atomicfile.Write(w.path(), w.whole(w.version[0]), atomicfile.Options{Temp: w.path() + ".new"}); err != nil {
		return err
	}
	w.version[1] = w.version[0]
	return nil
}

func (w *killWriter) append(f *os.File) error {
	b := make([]byte, 1+w.rng.IntN(200000))
	if w.rng.IntN(2) == 0 {
		b = b[:1+(len(b)-1)%3000]
	}
	at := w.acked
	if at+int64(len(b)) > 40<<20 {
		at, w.acked, w.size = 0, 0, 0
		if err := f.Truncate(0); err != nil {
			return err
		}
	}
	pattern(b, at)
	w.size = max(w.size, at+int64(len(b)))
	if _, err := f.WriteAt(b, at); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	w.acked = max(w.acked, at+int64(len(b)))
	return nil
}

// overwrite writes a new version to some slots.
func (w *killWriter) overwrite(f *os.File) error {
	n := 1 + w.rng.IntN(20)
	first := w.rng.IntN(len(w.slots) - n)
	b := make([]byte, n*4096)
	for i := range n {
		s := &w.slots[first+i]
		s[0]++
		for j := 0; j < 4096; j += 8 {
			binary.LittleEndian.PutUint64(b[i*4096+j:], s[0])
		}
	}
	if _, err := f.WriteAt(b, int64(first)*4096); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	for i := range n {
		w.slots[first+i][1] = w.slots[first+i][0]
	}
	return nil
}

// check compares the file with what is known, and goes on from what it finds.
func (w *killWriter) check() error {
	b, err := os.ReadFile(w.path())
	if errors.Is(err, os.ErrNotExist) && w.acked == 0 && w.version[1] == 0 && w.slots[0][1] == 0 {
		b, err = nil, nil // nothing of it was synced; the rest shows below
		if w.kind == "replace" || w.kind == "small" {
			return nil
		}
	}
	if err != nil {
		return err
	}
	switch w.kind {
	case "append":
		if n := int64(len(b)); n < w.acked || w.acked > 0 && n > w.size {
			return fmt.Errorf("%d bytes; %d were synced and %d written", n, w.acked, w.size)
		}
		want := make([]byte, len(b))
		pattern(want, 0)
		if !bytes.Equal(b, want) {
			return errors.New("content differs")
		}
		w.acked, w.size = int64(len(b)), int64(len(b))
	case "slots":
		r := bytes.NewReader(b)
		page := make([]byte, 4096)
		for i := range w.slots {
			s := &w.slots[i]
			if _, err := io.ReadFull(r, page); err != nil {
				clear(page)
			}
			v := binary.LittleEndian.Uint64(page)
			for j := 0; j < 4096; j += 8 {
				if binary.LittleEndian.Uint64(page[j:]) != v {
					return fmt.Errorf("slot %d is torn", i)
				}
			}
			if v < s[1] || v > s[0] {
				return fmt.Errorf("slot %d has version %d; %d was synced and %d written", i, v, s[1], s[0])
			}
			s[0], s[1] = v, v
		}
	default:
		if len(b) < 8 {
			return fmt.Errorf("%d bytes", len(b))
		}
		v := binary.LittleEndian.Uint64(b)
		if v < w.version[1] || v > w.version[0] || !bytes.Equal(b, w.whole(v)) {
			return fmt.Errorf("version %d; %d was synced and %d written", v, w.version[1], w.version[0])
		}
		w.version = [2]uint64{v, v}
	}
	return nil
}
