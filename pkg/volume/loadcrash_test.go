package volume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// loadSteps loads facts and content step by step, from a position on, and commits now and then. The
// position is the number of steps done.
type loadSteps struct {
	f      *facts
	pieces []piece
}

func (s *loadSteps) run(l *Loader, position []byte, rng *rand.Rand) error {
	at := 0
	if position != nil {
		at = int(binary.LittleEndian.Uint32(position))
	}
	for ; at < len(s.f.list)+len(s.pieces); at++ {
		var err error
		if at < len(s.f.list) {
			err = s.f.list[at].give(l)
		} else {
			p := &s.pieces[at-len(s.f.list)]
			err = l.WriteAt(p.ino, p.b, p.off)
		}
		if err == nil && rng.IntN(20) == 0 {
			// The rest is there to be compared, and to have several pieces.
			err = l.Commit(append(binary.LittleEndian.AppendUint32(nil, uint32(at+1)), make([]byte, rng.IntN(10_000))...))
		}
		if err != nil {
			return err
		}
	}
	return l.Finish()
}

// crashFacts are those of a small volume.
func crashFacts(t *testing.T) *loadSteps {
	t.Helper()
	v := mustOpen(t, newDev(t, 80<<20), Options{Memory: minMemory, CommitInterval: -1})
	req := &vfs.Req{}
	dir := vfs.RootIno
	for i := range 6 {
		a, err := v.Mkdir(req, dir, fmt.Sprintf("d%d", i), 0o755)
		ok(t, err)
		dir = a.Ino
		for j, n := range []int{0, 700, 5000, 150_000} {
			a, err := v.Mknod(req, dir, fmt.Sprintf("f%d", j), 0o644, 0)
			ok(t, err)
			_, err = v.Write(req, a.Ino, uint64(j*j*1000), []byte(fmt.Sprintf("%*d", n, i)), false)
			ok(t, err)
			ok(t, v.SetXattr(req, a.Ino, "user.x", make([]byte, n%9000), 0))
		}
		_, err = v.Symlink(req, dir, "link", "target")
		ok(t, err)
	}
	ok(t, v.Rename(req, dir, "f1", vfs.RootIno, "moved", 0))
	ok(t, v.SetFlags(req, dir, vfs.FlagNodump))
	ok(t, v.Sync(vfs.RootIno))
	f := factsOf(t, v)
	mustClose(t, v)
	return &loadSteps{f: &f, pieces: f.pieces(rand.New(rand.NewPCG(1, 1)))}
}

// After a loss of power at any write, the device holds no volume, one that is being restored and
// can be continued, or the whole volume.
func TestLoadCrash(t *testing.T) {
	t.Parallel()
	s := crashFacts(t)
	whole := device.NewMem(70 << 20)
	load := func(dev *device.Mem, seed uint64) error {
		l, err := NewLoader(dev, newFormat(t), s.f.options(t))
		if err == nil {
			err = errors.Join(s.run(l, nil, rand.New(rand.NewPCG(seed, 5))), l.Close())
		}
		return err
	}
	ok(t, load(whole, 0))
	writes := whole.Writes()
	t.Logf("%d writes", writes)
	var wg sync.WaitGroup
	step := max(4*writes/fewer(*crashCuts), 1) // four images each
	next := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for cut := range next {
				if err := s.cut(t, load, cut); err != nil {
					t.Errorf("power lost at write %d: %v", cut, err)
				}
			}
		})
	}
	for cut := 1; cut <= writes+2; cut += step {
		next <- cut
	}
	close(next)
	wg.Wait()
}

func newFormat(t testing.TB) FormatOptions { return FormatOptions{Recipient: testCred(t)} }

// cut loads until a write, and continues on what is left.
func (s *loadSteps) cut(t testing.TB, load func(dev *device.Mem, seed uint64) error, cut int) error {
	rng := rand.New(rand.NewPCG(uint64(cut), 6))
	dev := device.NewMem(70 << 20)
	dev.CutAfter(cut)
	err := load(dev, 0)
	dev.Cut()
	for _, mode := range []device.CrashMode{device.CrashLoseAll, device.CrashKeepAll, device.CrashMix, device.CrashMix} {
		img := dev.Crash(mode, rng)
		if rng.IntN(2) == 0 { // once more, while it continues
			img.CutAfter(1 + rng.IntN(40))
			if l, position, err := ResumeLoader(img, s.f.options(t)); err == nil {
				_ = s.run(l, position, rng)
				_ = l.Close()
			} else if v, err := Open(img, Options{Credential: testCred(t), CommitInterval: -1, Memory: minMemory}); err == nil {
				_ = v.Close()
			}
			img.Cut()
			img = img.Crash(device.CrashMix, rng)
		}
		if e := s.after(t, img, rng); e != nil {
			return fmt.Errorf("mode %v (the load: %w): %w", mode, err, e)
		}
	}
	return nil
}

// after checks what a loss of power left, and continues.
func (s *loadSteps) after(t testing.TB, dev *device.Mem, rng *rand.Rand) error {
	cred := testCred(t)
	v, err := Open(dev.Clone(), Options{Credential: cred, CommitInterval: -1, Memory: minMemory, ReadOnly: true})
	switch {
	case errors.Is(err, ErrRestoring):
		if err := soundErr(dev, cred); err != nil {
			return fmt.Errorf("while it is being restored: %w", err)
		}
		l, position, err := ResumeLoader(dev, s.f.options(t))
		if err != nil {
			return err
		}
		if err := errors.Join(s.run(l, position, rng), l.Close()); err != nil {
			return fmt.Errorf("continued at %d bytes: %w", len(position), err)
		}
	case err == nil:
		if err := v.Close(); err != nil {
			return err
		}
		if _, _, err := ResumeLoader(dev.Clone(), s.f.options(t)); !errors.Is(err, ErrNotRestoring) {
			return fmt.Errorf("a whole volume continues: %w", err)
		}
		if err := soundErr(dev, cred); err != nil {
			return fmt.Errorf("a whole volume: %w", err)
		}
	default:
		if blank, e := IsUnfinished(dev); e != nil || !blank {
			return err
		}
		return nil
	}
	v, err = Open(dev, Options{Credential: cred, CommitInterval: -1, Memory: minMemory})
	if err != nil {
		return err
	}
	got := factsOf(t, v)
	if err := errors.Join(s.f.differ(&got), v.Close(), cleanErr(dev)); err != nil {
		return err
	}
	rep, err := check.Run(dev, check.Options{Credential: cred, Data: true})
	if err == nil && len(rep.Notes) > 0 {
		err = fmt.Errorf("notes %v", rep.Notes)
	}
	return err
}

// soundErr is cleanErr for a device that lost power, perhaps twice: that may have torn a copy of the
// header, or of roots.
func soundErr(dev device.Device, cred crypto.Credential) error {
	rep, err := check.Run(dev, check.Options{Credential: cred, Data: true})
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	for _, p := range rep.Problems {
		if !strings.HasPrefix(p.Where, "header copy") && !strings.HasPrefix(p.Where, "root slot") || !strings.Contains(p.What, "a read-write mount repairs it") {
			return fmt.Errorf("check: %v", p)
		}
	}
	return nil
}
