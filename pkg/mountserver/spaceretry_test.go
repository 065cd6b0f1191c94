package mountserver

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

var rawSeed = flag.Uint64("raw.seed", 0, "seed of TestRawIsNeverFull, 0 for a new one")

// TestRawIsNeverFull fills the file of a raw block device and overwrites it with many concurrent
// writers, in the patterns that need most metadata, on a device of the minimum size that
// RawDeviceBytes allows, and once with less than half of that overhead. The first refused write
// fails the test.
func TestRawIsNeverFull(t *testing.T) {
	big := int64(192)
	if testing.Short() {
		big = 32
	}
	for _, c := range []struct {
		mib    int64
		memory int
		device int64 // 0: the minimum size
	}{{4, 64 << 20, 0}, {64, 256 << 20, (64 + 40) << 20}, {big, 256 << 20, 0}} {
		t.Run(fmt.Sprint(c.mib, " MiB"), func(t *testing.T) {
			raw := c.mib << 20
			if c.device == 0 {
				c.device = mounter.RawDeviceBytes(raw)
			}
			dev := device.NewMem(c.device)
			key, err := crypto.NewKey(make([]byte, 32))
			if err != nil {
				t.Fatal(err)
			}
			defer key.Erase()
			cred := crypto.SecretCredential(key)
			if err := volume.Format(dev, volume.FormatOptions{Recipient: cred}); err != nil {
				t.Fatal(err)
			}
			v, err := volume.Open(dev, volume.Options{Credential: cred, Memory: c.memory})
			if err != nil {
				t.Fatal(err)
			}
			overwrite(t, &spaceRetry{FS: v}, raw)
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func overwrite(t *testing.T, v vfs.FS, raw int64) {
	t.Helper()
	seed := *rawSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-raw.seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	a, err := v.Mknod(&vfs.Req{}, vfs.RootIno, "block", unix.S_IFREG|0o600, 0)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(rnd.Uint32())
	}
	all := func(n int64, each func(i int64) (off, length int64)) {
		t.Helper()
		var next atomic.Int64
		var failed atomic.Bool
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for i := next.Add(1) - 1; i < n && !failed.Load(); i = next.Add(1) - 1 {
					off, length := each(i)
					if m, err := v.Write(&vfs.Req{}, a.Ino, uint64(off), data[:length], false); err != nil || m != int(length) {
						failed.Store(true)
						t.Errorf("write of %d bytes at %d: %d, %v; %+v", length, off, m, err, v.StatFS())
					}
				}
			})
		}
		wg.Wait()
		if err := v.Sync(a.Ino); err != nil || failed.Load() {
			t.Fatal(err)
		}
	}
	for round := range 3 {
		perm := rnd.Perm(int(raw / 4096))
		all(raw>>20, func(i int64) (int64, int64) { return i << 20, 1 << 20 })
		all(raw/4096, func(i int64) (int64, int64) { return int64(perm[i]) * 4096, 4096 })
		if round == 1 { // holes, which are then filled again
			if err := v.Fallocate(&vfs.Req{}, a.Ino, vfs.FallocPunchHole|vfs.FallocKeepSize, 0, uint64(raw)/2); err != nil {
				t.Fatal(err)
			}
		}
	}
}
