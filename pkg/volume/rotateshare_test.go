package volume

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/shares"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// rotateAll rotates the data key and wants it to end.
func rotateAll(t testing.TB, v *Volume) {
	t.Helper()
	_, err := v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(t).Credential}, BytesPerSecond: -1})
	ok(t, err)
	if s := rotated(t, v); s.Phase != RotationNone || len(s.Epochs) != 1 {
		t.Fatalf("%+v", s)
	}
}

// writeFile makes a file.
func writeFile(t testing.TB, v *Volume, name string, data []byte) vfs.Ino {
	t.Helper()
	a, err := v.Mknod(crashReq, vfs.RootIno, name, 0o600, 0)
	ok(t, err)
	for off := 0; off < len(data); off += maxWrite {
		_, err := v.Write(crashReq, a.Ino, uint64(off), data[off:min(len(data), off+maxWrite)], false)
		ok(t, err)
	}
	return a.Ino
}

// share has n bytes of one file refer to what another has.
func share(t testing.TB, v *Volume, src vfs.Ino, from uint64, dst vfs.Ino, to, n uint64) {
	t.Helper()
	if done, err := v.CopyRange(crashReq, src, from, dst, to, n); err != nil || done != n {
		t.Fatalf("copy of %d bytes: %d, %v", n, done, err)
	}
}

// A volume that holds several times its size in copies still does so after a
// rotation, which needs no more room than there is.
func TestRotateSharedFull(t *testing.T) {
	dev := device.NewMem(96 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	v.rot.look = 1000 // many looks
	size := 40 << 20
	if testing.Short() {
		size = 4 << 20
	}
	data := noise(rand.New(rand.NewPCG(1, 9)), size)
	first := writeFile(t, v, "first", data)
	for i := range 9 {
		share(t, v, first, 0, writeFile(t, v, fmt.Sprint("copy", i), nil), 0, uint64(len(data)))
	}
	ok(t, v.Sync(vfs.RootIno))
	if !testing.Short() {
		fill(t, v, 300_000, 10)
		fillMore(t, v)
	}
	before, free := dataBlocks(t, v), v.StatFS().BlocksFree
	rotateAll(t, v)
	after := dataBlocks(t, v)
	if len(before) != len(after) {
		t.Errorf("data takes %d blocks, %d before", len(after), len(before))
	}
	for range 3 { // what was freed comes back two commits later
		ok(t, v.com.since(v.com.commits.Load()))
	}
	if got := v.StatFS().BlocksFree; got+1024 < free {
		t.Errorf("%d blocks are free, %d before", got, free)
	}
	mustClose(t, v)
	ok(t, cleanErr(dev))
}

// Extents with many references, of all their parts: of each part there is one
// copy after a rotation, whatever the order in which they are found.
func TestRotateSharedParts(t *testing.T) {
	dev := device.NewMem(128 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	rng := rand.New(rand.NewPCG(2, 9))
	const blocks = 4
	data := noise(rng, blocks*bufferBytes)
	src := writeFile(t, v, "src", data)
	type part struct {
		ino          vfs.Ino
		at, from, to uint64 // blocks
	}
	var parts []part
	files := 300
	if testing.Short() {
		files = 80
	}
	for i := range files {
		from := rng.Uint64N(blocks * bufferPages)
		p := part{writeFile(t, v, fmt.Sprint(i), noise(rng, 100_000)), rng.Uint64N(24), from, from + 1 + rng.Uint64N(blocks*bufferPages-from)}
		share(t, v, src, p.from*pageBytes, p.ino, p.at*pageBytes, (p.to-p.from)*pageBytes)
		parts = append(parts, p)
	}
	ok(t, v.Unlink(crashReq, vfs.RootIno, "src"))
	v.Forget(src)
	v.background.reaper.wait()
	ok(t, v.Sync(vfs.RootIno))
	before := dataBlocks(t, v)
	rotateAll(t, v)
	if after := dataBlocks(t, v); len(after) != len(before) {
		t.Errorf("data takes %d blocks, %d before", len(after), len(before))
	}
	for i, p := range parts {
		got := make([]byte, (p.to-p.from)*pageBytes)
		if n, err := v.Read(p.ino, p.at*pageBytes, got); n != len(got) || err != nil || !bytes.Equal(got, data[p.from*pageBytes:p.to*pageBytes]) {
			t.Fatalf("file %d: %d, %v, or other data", i, n, err)
		}
	}
	mustClose(t, v)
	ok(t, cleanErr(dev))
}

// sharedLoad is files that all begin with the same data, of several workers.
type sharedLoad struct {
	t    *testing.T
	v    *Volume
	data []byte
	inos [3][40]vfs.Ino // of each worker
	want [3][40][]byte
}

// Files that share are overwritten, cut, removed and copied while a rotation takes
// what they share: contents and counts stay right.
func TestRotateSharedLoad(t *testing.T) {
	rounds := uint64(6)
	if testing.Short() {
		rounds = 2
	}
	for seed := range rounds {
		dev := device.NewMem(128 << 20)
		mustFormat(t, dev)
		v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
		v.rot.look = []int{1, 7, 1000}[seed%3]
		x := &sharedLoad{t: t, v: v, data: noise(rand.New(rand.NewPCG(seed, 9)), 5*bufferBytes)}
		src := writeFile(t, v, "src", x.data)
		for w := range x.inos {
			for i := range x.inos[w] {
				x.inos[w][i] = writeFile(t, v, fmt.Sprintf("%d.%d", w, i), nil)
				share(t, v, src, 0, x.inos[w][i], 0, uint64(len(x.data)))
			}
		}
		ok(t, v.Sync(vfs.RootIno))
		_, err := v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(t).Credential}, BytesPerSecond: -1})
		ok(t, err)
		var wg sync.WaitGroup
		for w := range x.inos {
			wg.Go(func() { x.work(w, rand.New(rand.NewPCG(seed, uint64(w)))) })
		}
		wg.Wait()
		if s := rotated(t, v); s.Phase != RotationNone {
			t.Fatalf("%+v", s)
		}
		for w := range x.inos {
			for i := range x.inos[w] {
				got := make([]byte, len(x.data))
				if n, err := v.Read(x.inos[w][i], 0, got); n != len(got) || err != nil || !bytes.Equal(got, x.want[w][i]) {
					t.Fatalf("seed %d, file %d.%d: %d, %v, or other data", seed, w, i, n, err)
				}
			}
		}
		mustClose(t, v)
		ok(t, cleanErr(dev))
	}
}

// work changes the files of one worker.
func (x *sharedLoad) work(w int, rng *rand.Rand) {
	inos, want := &x.inos[w], &x.want[w]
	for i := range want {
		want[i] = bytes.Clone(x.data)
	}
	for range 300 {
		i, j := rng.IntN(len(inos)), rng.IntN(len(inos))
		off := rng.IntN(len(x.data)/pageBytes) * pageBytes
		n := min(len(x.data)-off, (1+rng.IntN(20))*pageBytes)
		var err error
		switch rng.IntN(3) {
		case 0:
			if i != j {
				_, err = x.v.CopyRange(crashReq, inos[i], uint64(off), inos[j], uint64(off), uint64(n))
				copy(want[j][off:off+n], want[i][off:])
			}
		case 1:
			err = x.v.Fallocate(crashReq, inos[i], vfs.FallocPunchHole|vfs.FallocKeepSize, uint64(off), uint64(n))
			clear(want[i][off : off+n])
		default:
			b := noise(rng, n)
			_, err = x.v.Write(crashReq, inos[i], uint64(off), b, false)
			copy(want[i][off:], b)
		}
		if err != nil {
			x.t.Error(err)
			return
		}
	}
}

// The copy of an extent goes between two steps, and its place is used again: what
// is left gets another one.
func TestRotateSharedCopyGone(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	rng := rand.New(rand.NewPCG(6, 9))
	data := noise(rng, bufferBytes)
	const files = 3*shares.Step + 5
	inos, other := []vfs.Ino{writeFile(t, v, "0", data)}, writeFile(t, v, "other", nil)
	for i := 1; i < files; i++ {
		inos = append(inos, writeFile(t, v, fmt.Sprint(i), nil))
		share(t, v, inos[0], 0, inos[i], 0, bufferBytes)
	}
	ok(t, v.Sync(vfs.RootIno))
	want := make([][]byte, files)
	for i := range want {
		want[i] = data
	}
	moved := 0
	change := func() error {
		for i, ino := range inos { // all files that have the copy, the second time every other
			es, err := v.data.extents(uint64(ino), 0, bufferPages, 1)
			if err != nil {
				return err
			}
			if es[0].Epoch == 2 && (moved == 2 || i%2 == 0) {
				want[i] = noise(rng, bufferBytes)
				if _, err := v.Write(crashReq, ino, 0, want[i], false); err != nil {
					return err
				}
			}
		}
		for i := range 4 { // freed space comes back, and is used
			if err := v.Sync(vfs.RootIno); err != nil {
				return err
			}
			if _, err := v.Write(crashReq, other, uint64(moved*4+i)<<20, noise(rng, 1<<20), false); err != nil {
				return err
			}
		}
		return nil
	}
	v.rot.moves = func() {
		if moved++; moved == 2 || moved == 4 {
			if err := change(); err != nil {
				t.Error(err)
			}
		}
	}
	rotateAll(t, v)
	if moved < 4 {
		t.Errorf("%d steps", moved)
	}
	for i, ino := range inos {
		got := make([]byte, bufferBytes)
		if n, err := v.Read(ino, 0, got); n != len(got) || err != nil || !bytes.Equal(got, want[i]) {
			t.Fatalf("file %d: %d, %v, or other data", i, n, err)
		}
	}
	mustClose(t, v)
	ok(t, cleanErr(dev))
}

// Where a snapshot keeps what a rotation rewrites, the rotation leaves room for
// those who use the volume, and says what it waits for.
func TestRotateLeavesRoom(t *testing.T) {
	dev := device.NewMem(96 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	data := noise(rand.New(rand.NewPCG(4, 9)), 24<<20)
	first := writeFile(t, v, "f", data)
	share(t, v, first, 0, writeFile(t, v, "g", nil), 0, 12<<20) // both ways of rewriting
	_, err := v.CreateSnapshot("keeps")
	ok(t, err)
	writeFile(t, v, "other", data[:16<<20])
	_, err = v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(t).Credential}, BytesPerSecond: -1})
	ok(t, err)
	s := rotated(t, v)
	if s.Phase != RotationWaiting || s.Waits != nearlyFull {
		t.Fatalf("%+v", s)
	}
	if avail := int64(v.StatFS().BlocksAvail) * 4096; avail < 8<<20 {
		t.Errorf("the rotation has left %d bytes", avail)
	}
	writeFile(t, v, "fits", data[:4<<20])
	ok(t, v.Sync(vfs.RootIno))
	ok(t, v.DeleteSnapshot("keeps"))
	if s := endOf(t, v); s.Phase != RotationNone {
		t.Fatalf("%+v", s)
	}
	mustClose(t, v)
	ok(t, cleanErr(dev))
}

// Shared data that cannot be read keeps the old key, and says so.
func TestRotateSharedDamage(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	data := noise(rand.New(rand.NewPCG(5, 9)), 300_000)
	first := writeFile(t, v, "f", data)
	second := writeFile(t, v, "g", nil)
	share(t, v, first, 0, second, 0, uint64(len(data)))
	mustClose(t, v)
	v = mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	es, err := v.data.extents(uint64(first), 0, 100, 1)
	ok(t, err)
	dev.Corrupt(int64(es[0].Addr)+layout.BlockBytes, func(b []byte) { b[0] ^= 1 })
	_, err = v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(t).Credential}, BytesPerSecond: -1})
	ok(t, err)
	if s := rotated(t, v); s.Phase != RotationWaiting || !strings.Contains(s.Waits, fmt.Sprintf("inode %d at %d", first, pageBytes)) || len(s.Epochs) != 2 {
		t.Fatalf("%+v", s)
	}
	if _, err := v.Read(second, 0, make([]byte, bufferBytes)); !errors.Is(err, vfs.ErrCorrupt) {
		t.Fatal(err)
	}
	if n, err := v.Read(second, bufferBytes, make([]byte, bufferBytes)); n != bufferBytes || err != nil {
		t.Fatal(n, err)
	}
	for name, ino := range map[string]vfs.Ino{"f": first, "g": second} {
		ok(t, v.Unlink(crashReq, vfs.RootIno, name))
		v.Forget(ino)
	}
	v.background.reaper.wait()
	_, err = v.RotateDataKey(RotateOptions{})
	ok(t, err)
	if s := rotated(t, v); s.Phase != RotationNone {
		t.Fatalf("%+v", s)
	}
	mustClose(t, v)
	ok(t, cleanErr(dev))
}
