package volume

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// TestForgedReservations: a root that states other sums than its tree has makes nobody promise
// more than there is: df stays a number, and a full volume is full, not failed.
func TestForgedReservations(t *testing.T) {
	for _, sums := range []layout.Reservations{
		{},
		{Promised: 1, Ranges: 1},
		{Promised: 1, Owed: 1, Ranges: 1, Mark: 1<<62 - 1},
		{Promised: layout.MaxReserved, Ranges: 1},
		{Promised: layout.MaxReserved, Owed: layout.MaxReserved, Ranges: layout.MaxReserved},
	} {
		t.Logf("%+v", sums)
		dev := device.NewMem(80 << 20)
		mustFormat(t, dev)
		v := mustOpen(t, dev, Options{CommitInterval: -1})
		a, err := v.Mknod(crashReq, vfs.RootIno, "f", 0o644, 0)
		ok(t, err)
		fill, err := v.Mknod(crashReq, vfs.RootIno, "fill", 0o644, 0)
		ok(t, err)
		ok(t, v.Fallocate(crashReq, a.Ino, 0, 0, 20<<20))
		_, err = v.Write(crashReq, a.Ino, 0, bytes.Repeat([]byte{1}, 1<<20), false)
		ok(t, err)
		ok(t, v.Close())
		f := newForge(t, dev, rand.New(rand.NewPCG(1, 2)))
		f.root.Reserved = sums
		f.writeRoot()
		f.close()
		v = mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
		check := func() {
			t.Helper()
			s := v.StatFS()
			if s.BlocksFree > s.Blocks || s.BlocksAvail > s.Blocks {
				t.Errorf("of %d blocks %d are free, %d available", s.Blocks, s.BlocksFree, s.BlocksAvail)
			}
			if err := v.Failed(); err != nil {
				t.Fatal(err)
			}
		}
		check()
		for _, size := range []uint64{30 << 20, 10 << 20, 0} {
			if err := v.Fallocate(crashReq, a.Ino, 0, 0, 1<<20); err != nil && !errors.Is(err, vfs.ErrNoSpace) {
				t.Error(err)
			}
			_, err := v.SetAttr(crashReq, a.Ino, &vfs.SetAttr{Size: &size})
			if err != nil && !errors.Is(err, vfs.ErrNoSpace) {
				t.Error(err)
			}
			check()
		}
		for off := uint64(0); ; off += 1 << 20 {
			_, err := v.Write(crashReq, fill.Ino, off, bytes.Repeat([]byte{2}, 1<<20), false)
			if errors.Is(err, vfs.ErrNoSpace) {
				break
			}
			ok(t, err)
		}
		check()
		if _, err := v.CreateSnapshot("s"); err != nil && !errors.Is(err, vfs.ErrNoSpace) {
			t.Error(err)
		}
		check()
		ok(t, v.Close())
	}
}
