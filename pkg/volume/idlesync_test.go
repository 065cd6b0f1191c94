package volume

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// TestIdleSync: a machine that loses power when nothing has changed for a moment loses nothing,
// although nobody has synced and no commit was due.
func TestIdleSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := device.NewMem(64 << 20)
		mustFormat(t, dev)
		v := mustOpen(t, dev, Options{Memory: minMemory, CommitInterval: time.Hour})
		a, err := v.Mknod(&vfs.Req{}, vfs.RootIno, "f", 0o100644, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Write(&vfs.Req{}, a.Ino, 0, []byte("data"), false); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * idleInterval) // of the bubble: it takes no time
		synctest.Wait()
		after := dev.Crash(device.CrashLoseAll, rand.New(rand.NewPCG(1, 1)))
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		w := mustOpen(t, after, Options{Memory: minMemory, CommitInterval: -1})
		b := make([]byte, 4)
		if n, err := w.Read(a.Ino, 0, b); n != 4 || err != nil || string(b) != "data" {
			t.Errorf("after the power cut: %q, %v", b[:n], err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
