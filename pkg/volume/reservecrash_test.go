package volume

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// TestReserveCrash cuts the power while a full volume reserves, overwrites what is
// reserved, takes and deletes snapshots and copies. What was reserved before the last
// acknowledged sync still is, and all that is has room: it can be overwritten on the
// volume that came back, once that is full again.
func TestReserveCrash(t *testing.T) {
	seed := *reserveSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	for i := range fewer(*reserveRuns) {
		reserveCrash(t, seed+uint64(i))
		if t.Failed() {
			return
		}
	}
}

// promise is a range that a call has reserved.
type promise struct {
	name     string
	off, end uint64
}

type reserveCrasher struct {
	*reserved
	rng          *rand.Rand
	inos         []vfs.Ino
	made, synced []promise
	snaps        []string
	snapped      int
}

func reserveCrash(t *testing.T, seed uint64) {
	t.Logf("-reserve.seed=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 11))
	c := &reserveCrasher{reserved: newReserved(t, 72<<20), rng: rng}
	for i := range 4 {
		c.inos = append(c.inos, c.file(fmt.Sprintf("f%d", i)))
	}
	ok(t, c.v.Sync(vfs.RootIno))
	c.dev.CutAfter(1 + rng.IntN(600))
	var err error
	for i := 0; err == nil && i < 400; i++ {
		if err = c.step(); errors.Is(err, vfs.ErrNoSpace) {
			err = nil
		}
	}
	c.dev.Cut()
	c.v.fail(device.ErrCrashed)
	if c.v.Close() == nil {
		t.Fatal("close after the crash: no error")
	}
	if err != nil && !errors.Is(err, device.ErrCrashed) && !errors.Is(err, vfs.ErrReadOnly) {
		t.Fatal(err)
	}
	for _, mode := range []device.CrashMode{device.CrashLoseAll, device.CrashKeepAll, device.CrashMix, device.CrashMix} {
		c.look(c.dev.Crash(mode, rng))
	}
}

func (c *reserveCrasher) step() error {
	i := c.rng.IntN(len(c.inos))
	ino := c.inos[i]
	off := c.rng.Uint64N(2 << 20)
	n := 1 + c.rng.Uint64N(300_000)
	switch k := c.rng.IntN(100); {
	case k < 15:
		mode := []uint32{0, vfs.FallocKeepSize, vfs.FallocZeroRange}[c.rng.IntN(3)]
		err := c.v.Fallocate(crashReq, ino, mode, off, n)
		if err == nil {
			c.made = append(c.made, promise{fmt.Sprintf("f%d", i), off, off + n})
		}
		return err
	case k < 60:
		if len(c.made) == 0 {
			return nil
		}
		p := c.made[c.rng.IntN(len(c.made))]
		a, err := c.v.Lookup(vfs.RootIno, p.name)
		if err != nil {
			return err
		}
		at := p.off + c.rng.Uint64N(p.end-p.off)
		if _, err = c.v.Write(crashReq, a.Ino, at, make([]byte, p.end-at), false); errors.Is(err, vfs.ErrNoSpace) {
			c.t.Fatal("what is reserved has no room")
		}
		return err
	case k < 65:
		name := fmt.Sprintf("s%d", c.snapped)
		c.snapped++
		_, err := c.v.CreateSnapshot(name)
		if err == nil {
			c.snaps = append(c.snaps, name)
		}
		return err
	case k < 69:
		if len(c.snaps) == 0 {
			return nil
		}
		name := c.snaps[0]
		c.snaps = c.snaps[1:]
		return c.v.DeleteSnapshot(name)
	case k < 75:
		_, err := c.v.CopyRange(crashReq, ino, 0, c.inos[(i+1)%len(c.inos)], 0, 1<<20)
		return err
	case k < 82:
		size := uint64(0)
		_, err := c.v.SetAttr(crashReq, c.fill, &vfs.SetAttr{Size: &size})
		c.end = 0
		return err
	case k < 90:
		for range 60 {
			if _, err := c.v.Write(crashReq, c.fill, c.end, make([]byte, 1<<20), false); err != nil {
				return err
			}
			c.end += 1 << 20
		}
		return nil
	}
	made := len(c.made)
	err := c.v.Sync(ino)
	if err == nil {
		c.synced = c.made[:made]
	}
	return err
}

// look opens what the crash left, and takes the promises at their word.
func (c *reserveCrasher) look(img *device.Mem) {
	t := c.t
	l := &reserved{t: t, dev: img}
	l.open()
	l.v.background.reaper.wait()
	for _, p := range c.synced {
		a, err := l.v.Lookup(vfs.RootIno, p.name)
		ok(t, err)
		in, err := l.v.table.inode(a.Ino)
		ok(t, err)
		if is, err := l.v.ranges.covers(in, p.off, p.end); err != nil || !is {
			t.Errorf("%s: %d to %d is not reserved any more: %v", p.name, p.off, p.end, err)
		}
		l.v.table.put(in)
	}
	a, err := l.v.Lookup(vfs.RootIno, "fill")
	ok(t, err)
	l.fill, l.end = a.Ino, a.Size
	l.full()
	for i := range c.inos {
		a, err := l.v.Lookup(vfs.RootIno, fmt.Sprintf("f%d", i))
		ok(t, err)
		spans, err := items.ScanReserved(l.v.fs.ScanFloor, uint64(a.Ino), 0, 1<<62, 0)
		ok(t, err)
		for _, s := range spans {
			for at := s.From * pageBytes; at < s.To*pageBytes; at += 1 << 19 {
				b := bytes.Repeat([]byte{9}, int(min(1<<19, s.To*pageBytes-at)))
				if _, err := l.v.Write(crashReq, a.Ino, at, b, false); err != nil {
					t.Fatalf("f%d at %d, which is reserved: %v; %+v", i, at, err, l.v.ranges.stored())
				}
			}
		}
		ok(t, l.v.Sync(a.Ino))
	}
	ok(t, l.v.Close())
	checkClean(t, img)
}
