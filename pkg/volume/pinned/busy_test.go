package pinned_test

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// systemBytes is where header and roots end.
const systemBytes = 2 << 20

// TestBusy reads a snapshot while the volume commits between any two reads, other snapshots come
// and go, the data key is rotated, and headers and roots are seen half written.
func TestBusy(t *testing.T) {
	h := newHistory(t, 1, 128<<20)
	h.Steps(400)
	_, err := h.V.CreateSnapshot("keep")
	ok(t, err)
	p, err := pinned.Open(h.Dev, pinned.Options{Credential: newKey(t)})
	ok(t, err)
	defer p.Close()
	s, err := p.Snapshot("keep")
	ok(t, err)
	want := all(t, s)

	rng := rand.New(rand.NewPCG(3, 3))
	dev := &watched{Device: h.Dev}
	dev.before = func(int64) {
		if rng.IntN(3) > 0 {
			return
		}
		h.Steps(3)
		if rng.IntN(8) == 0 {
			h.Snapshot()
		}
		for range rng.IntN(4) {
			ok(t, h.V.Sync(vfs.RootIno))
		}
		if rng.IntN(40) == 0 && h.V.RotationStatus().Phase == volume.RotationNone {
			_, err := h.V.RotateDataKey(volume.RotateOptions{Keys: []crypto.Credential{newKey(t)}, BytesPerSecond: -1})
			ok(t, err)
		}
	}
	dev.after = func(b []byte, off int64) {
		if off < systemBytes && rng.IntN(12) == 0 {
			b[len(b)/2] ^= 0xff
		}
	}
	for range 20 {
		busy, err := pinned.Open(dev, pinned.Options{Credential: newKey(t), Memory: 1})
		ok(t, err)
		s, err := busy.Snapshot("keep")
		ok(t, err)
		ok(t, all(t, s).same(want))
		busy.Close()
	}
	h.Close()
}

// TestDeletedMeanwhile deletes a snapshot at any point of reading it, and writes over what it held.
// What is read is right, or the error says what happened.
func TestDeletedMeanwhile(t *testing.T) {
	deleted := 0
	for at := range 8 {
		h := newHistory(t, 2, 96<<20)
		h.Steps(300)
		_, err := h.V.CreateSnapshot("gone")
		ok(t, err)
		dev := &watched{Device: h.Dev}
		p, err := pinned.Open(dev, pinned.Options{Credential: newKey(t), Memory: 1})
		ok(t, err)
		s, err := p.Snapshot("gone")
		ok(t, err)
		want := all(t, s)
		n := 0
		dev.before = func(int64) {
			if n++; n == 1+4*at {
				overwrite(t, h)
			}
		}
		fresh, err := p.At(s.Ref())
		ok(t, err)
		a := &applier{facts: newFacts(), to: fresh}
		switch err := pinned.Diff(t.Context(), nil, fresh, a); {
		case err == nil:
			ok(t, a.same(want))
		case !errors.Is(err, pinned.ErrDeleted) || !strings.Contains(err.Error(), `"gone"`):
			t.Fatalf("deleted before read %d: %v", 4*at, err)
		default:
			deleted++
		}
		if n > 4*at {
			if _, err := p.Snapshot("gone"); !errors.Is(err, pinned.ErrNoSnapshot) {
				t.Fatal(err)
			}
		}
		p.Close()
		h.Close()
	}
	if deleted < 3 {
		t.Errorf("reading failed only %d times", deleted)
	}
}

// TestListOvertaken finds a snapshot although pages of the list are written over before they are
// read, as a full volume may do two commits after it has freed them.
func TestListOvertaken(t *testing.T) {
	h := newHistory(t, 6, 64<<20)
	for i := range 150 { // several leaves
		_, err := h.V.CreateSnapshot(fmt.Sprint("keep", i))
		ok(t, err)
	}
	dev := &watched{Device: h.Dev}
	p, err := pinned.Open(dev, pinned.Options{Credential: newKey(t)})
	ok(t, err)
	_, err = p.Snapshot("keep149")
	ok(t, err)
	p.Close()
	reads := dev.take()
	root := reads[len(reads)-1][0] // of the snapshot's tree, which nobody writes over
	rng := rand.New(rand.NewPCG(6, 6))
	overtake, times := false, 0
	dev.before = func(off int64) {
		if overtake = off >= systemBytes && off != root && rng.IntN(3) > 0; overtake {
			times++
			_, err := h.V.CreateSnapshot("brief")
			ok(t, err)
			ok(t, h.V.DeleteSnapshot("brief"))
		}
	}
	dev.after = func(b []byte, _ int64) {
		if overtake {
			b[len(b)/3] ^= 1
		}
	}
	for range 20 {
		p, err := pinned.Open(dev, pinned.Options{Credential: newKey(t), Memory: 1})
		ok(t, err)
		_, err = p.Snapshot("keep149")
		ok(t, err)
		p.Close()
	}
	if times < 20 {
		t.Errorf("the list was overtaken only %d times", times)
	}
	h.Close()
}

// TestRotatedMeanwhile replaces the data key and all roots after the header was read.
func TestRotatedMeanwhile(t *testing.T) {
	h := newHistory(t, 7, 96<<20)
	_, err := h.V.CreateSnapshot("s")
	ok(t, err)
	rotated := false
	dev := &watched{Device: h.Dev}
	dev.before = func(off int64) {
		if off != 64<<10 || rotated {
			return
		}
		rotated = true
		_, err := h.V.RotateDataKey(volume.RotateOptions{Keys: []crypto.Credential{newKey(t)}, BytesPerSecond: -1})
		ok(t, err)
		for range 20 {
			h.Steps(5)
			ok(t, h.V.Sync(vfs.RootIno))
		}
	}
	p, err := pinned.Open(dev, pinned.Options{Credential: newKey(t)})
	ok(t, err)
	defer p.Close()
	s, err := p.Snapshot("s")
	ok(t, err)
	all(t, s)
	h.Close()
}

// TestTornHeader sees both copies of the header half written, once.
func TestTornHeader(t *testing.T) {
	h := newHistory(t, 7, 96<<20)
	keys, err := pinned.ReadKeys(h.Dev, newKey(t))
	ok(t, err)
	defer keys.Erase()
	for _, o := range []pinned.Options{{Credential: newKey(t)}, {Keys: keys}} {
		torn := 0
		dev := &watched{Device: h.Dev, after: func(b []byte, _ int64) {
			if torn++; torn <= 2 {
				b[20000] ^= 1
			}
		}}
		p, err := pinned.Open(dev, o)
		ok(t, err)
		p.Close()
	}
	h.Close()
}

// fill writes until the volume is full.
func fill(t *testing.T, h *history) {
	t.Helper()
	a, err := h.V.Mknod(h.Req(), vfs.RootIno, "full", 0o100644, 0)
	ok(t, err)
	b := make([]byte, 256<<10)
	b[0] = 1
	for off := uint64(0); err == nil; off += uint64(len(b)) {
		_, err = h.V.Write(h.Req(), a.Ino, off, b, false)
		h.Allow(err)
	}
	h.Allow(h.V.Sync(vfs.RootIno))
}

// overwrite deletes the snapshot and everything else, and fills the device.
func overwrite(t *testing.T, h *history) {
	t.Helper()
	ok(t, h.V.DeleteSnapshot("gone"))
	p, err := pinned.Open(h.Dev, pinned.Options{Credential: newKey(t)})
	ok(t, err)
	defer p.Close()
	if _, err := p.Snapshot("gone"); !errors.Is(err, pinned.ErrNoSnapshot) { // its space is not free yet
		t.Error(err)
	}
	for range 400 {
		h.Unlink()
	}
	ok(t, h.V.WaitFreed())
	for range 4 {
		ok(t, h.V.Sync(vfs.RootIno))
	}
	fill(t, h)
	for i := range 3000 { // and metadata
		_, err := h.V.Mknod(h.Req(), vfs.RootIno, fmt.Sprint("m", i), 0o100644, 0)
		if h.Allow(err); err != nil {
			break
		}
	}
	h.Allow(h.V.Sync(vfs.RootIno))
}

// digest is a hash of all facts.
func (f *facts) digest() string {
	h := sha256.New()
	h.Write(fmt.Appendf(nil, "%v", *f))
	return fmt.Sprintf("%x", h.Sum(nil))
}

const readerEnv = "SEALVOL_TEST_PINNED_DEVICE"

// TestOtherProcess reads a snapshot in another process while this one writes.
func TestOtherProcess(t *testing.T) {
	if path := os.Getenv(readerEnv); path != "" {
		readAgain(t, path)
		return
	}
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	ok(t, err)
	ok(t, f.Truncate(128<<20))
	ok(t, f.Close())
	dev, err := device.Open(path, device.OpenOptions{})
	ok(t, err)
	defer func() { ok(t, dev.Close()) }()
	ok(t, volume.Format(dev, volume.FormatOptions{Recipient: newKey(t)}))
	h := &history{T: t, Key: newKey(t), Rng: rand.New(rand.NewPCG(9, 9)), V: mount(t, dev), Dirs: []vfs.Ino{vfs.RootIno}}
	h.Steps(400)
	_, err = h.V.CreateSnapshot("keep")
	ok(t, err)

	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOtherProcess$", "-test.v")
	cmd.Env = append(os.Environ(), readerEnv+"="+path)
	out, err := cmd.StdoutPipe()
	ok(t, err)
	ok(t, cmd.Start())
	digests := make(chan []string)
	go func() {
		var list []string
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if d, found := strings.CutPrefix(lines.Text(), "digest "); found {
				list = append(list, d)
			} else {
				t.Log(lines.Text())
			}
		}
		digests <- list
	}()
	deadline := time.Now().Add(time.Minute)
	for busy := true; busy; {
		select {
		case list := <-digests:
			busy = false
			ok(t, cmd.Wait())
			checkDigests(t, dev, list)
		default:
			if time.Now().After(deadline) {
				ok(t, cmd.Process.Kill())
			}
			h.Steps(20)
			ok(t, h.V.Sync(vfs.RootIno))
			if h.Rng.IntN(10) == 0 {
				h.Snapshot()
			}
		}
	}
	h.Close()
}

func checkDigests(t *testing.T, dev device.Device, list []string) {
	t.Helper()
	p, err := pinned.Open(dev, pinned.Options{Credential: newKey(t)})
	ok(t, err)
	defer p.Close()
	s, err := p.Snapshot("keep")
	ok(t, err)
	want := all(t, s).digest()
	if len(list) != readerRounds {
		t.Fatalf("%d rounds, not %d", len(list), readerRounds)
	}
	for i, d := range list {
		if d != want {
			t.Errorf("round %d: another content", i)
		}
	}
}

const readerRounds = 10

// readAgain is the other process.
func readAgain(t *testing.T, path string) {
	for range readerRounds {
		dev, err := device.Open(path, device.OpenOptions{ReadOnly: true, Shared: true})
		ok(t, err)
		p, err := pinned.Open(dev, pinned.Options{Credential: newKey(t), Memory: 1})
		ok(t, err)
		s, err := p.Snapshot("keep")
		ok(t, err)
		fmt.Println("digest", all(t, s).digest())
		p.Close()
		ok(t, dev.Close())
	}
}
