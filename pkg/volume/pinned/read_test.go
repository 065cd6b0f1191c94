package pinned_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/pinned"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// TestConcurrentReads reads files from several goroutines, at any offset, beside Diff.
func TestConcurrentReads(t *testing.T) {
	h := newHistory(t, 11, 128<<20)
	h.Steps(500)
	_, err := h.V.CreateSnapshot("s")
	ok(t, err)
	p, err := pinned.Open(h.Dev, pinned.Options{Credential: newKey(t), Memory: 1})
	ok(t, err)
	defer p.Close()
	s, err := p.Snapshot("s")
	ok(t, err)
	want := all(t, s)
	var inos []uint64
	for ino, d := range want.data {
		if d.size < 1<<30 {
			inos = append(inos, ino)
		}
	}
	var wg sync.WaitGroup
	for i := range uint64(6) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(i, 1))
			for range 150 {
				ino := pick(rng, inos)
				if err := readSome(rng, s, ino, want.data[ino]); err != nil {
					t.Errorf("inode %d: %v", ino, err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for range 3 {
			a := &applier{facts: newFacts(), to: s}
			if err := errors.Join(pinned.Diff(t.Context(), nil, s, a), a.same(want)); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	h.Close()
}

// readSome reads a range that may reach beyond the end.
func readSome(rng *rand.Rand, s *pinned.State, ino uint64, want sparse) error {
	f, err := s.Open(ino)
	if err != nil {
		return err
	}
	if f.Size() != want.size {
		return fmt.Errorf("%d bytes, not %d", f.Size(), want.size)
	}
	off := rng.Int64N(int64(want.size) + 1)
	b := make([]byte, rng.IntN(60000))
	for i := range b {
		b[i] = 0xee
	}
	n, err := f.ReadAt(b, off)
	if left := want.size - uint64(off); uint64(len(b)) > left {
		if uint64(n) != left || !errors.Is(err, io.EOF) {
			return fmt.Errorf("%d bytes at %d of %d: %w", n, off, want.size, err)
		}
	} else if n != len(b) || err != nil {
		return fmt.Errorf("%d of %d bytes at %d: %w", n, len(b), off, err)
	}
	for i, c := range b[:n] {
		at := uint64(off) + uint64(i)
		x := byte(0)
		if blk, have := want.blocks[at/block]; have {
			x = blk[at%block]
		}
		if c != x {
			return fmt.Errorf("byte %d is %d, not %d", at, c, x)
		}
	}
	return nil
}

// TestReadsAreLarge: neighbours on the device are read together.
func TestReadsAreLarge(t *testing.T) {
	h := newHistory(t, 12, 96<<20)
	req := &vfs.Req{}
	a, err := h.V.Mknod(req, vfs.RootIno, "f", 0o100644, 0)
	ok(t, err)
	const size = 8 << 20
	for off := uint64(0); off < size; off += 128 << 10 {
		_, err := h.V.Write(req, a.Ino, off, h.Bytes(128<<10), false)
		ok(t, err)
	}
	ok(t, h.V.Sync(vfs.RootIno))
	_, err = h.V.CreateSnapshot("s")
	ok(t, err)
	dev := &watched{Device: h.Dev}
	p, err := pinned.Open(dev, pinned.Options{Credential: newKey(t)})
	ok(t, err)
	defer p.Close()
	s, err := p.Snapshot("s")
	ok(t, err)
	dev.take()
	got, want := make([]byte, size), make([]byte, size)
	_, err = s.ReadAt(uint64(a.Ino), got, 0)
	ok(t, err)
	// Its extents have 64 KiB each. The engine may have placed some apart.
	if n := len(dev.take()); n > size/(256<<10) {
		t.Errorf("%d MiB took %d reads", size>>20, n)
	}
	_, err = h.V.Read(a.Ino, 0, want)
	ok(t, err)
	if string(got) != string(want) {
		t.Error("another content")
	}
	h.Close()
}
