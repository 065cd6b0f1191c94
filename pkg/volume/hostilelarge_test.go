package volume

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// manyExtents is a volume with a file of n extents, each of a block, all of which share few.
func manyExtents(t *testing.T, n int) (dev *device.Mem, ino uint64) {
	t.Helper()
	dev = device.NewMem(1 << 30)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	src, err := v.Mknod(crashReq, vfs.RootIno, "src", 0o644, 0)
	ok(t, err)
	const some = 1024
	for i := range uint64(some) {
		_, err := v.Write(crashReq, src.Ino, 2*i*pageBytes, make([]byte, pageBytes), false)
		ok(t, err)
	}
	ok(t, v.Fallocate(crashReq, src.Ino, 0, 0, 2*some*pageBytes))
	ok(t, v.com.commitAll())
	dst, err := v.Mknod(crashReq, vfs.RootIno, "dst", 0o644, 0)
	ok(t, err)
	const length = (2*some - 1) * pageBytes
	for i := 0; i < n; i += some {
		done, err := v.CopyRange(crashReq, src.Ino, 0, dst.Ino, uint64(i)*2*pageBytes, length)
		ok(t, err)
		if done != length {
			t.Fatalf("%d of %d bytes copied", done, length)
		}
	}
	ok(t, v.Close())
	return dev, uint64(dst.Ino)
}

// TestForgedLargeOperations: an operation of a log that changes more than any mount makes at once.
func TestForgedLargeOperations(t *testing.T) {
	const extents = 100 << 10
	base, ino := manyExtents(t, extents)
	for name, op := range map[string]layout.Op{
		"hole":    {Type: layout.OpFallocate, Flags: vfs.FallocPunchHole | vfs.FallocKeepSize},
		"zeros":   {Type: layout.OpFallocate, Flags: vfs.FallocZeroRange | layout.FallocReserve},
		"reserve": {Type: layout.OpFallocate, Flags: layout.FallocReserve},
		"copy":    {Type: layout.OpCopyRange},
	} {
		t.Run(name, func(t *testing.T) {
			dev := base.Clone()
			f := newForge(t, dev, rand.New(rand.NewPCG(1, 2)))
			op := op
			op.Seq, op.Ino, op.Len = f.root.OpSeq, ino, 2*extents*pageBytes
			if op.Type == layout.OpCopyRange {
				op.Ino, op.Parent2, op.Len = f.root.NextIno, ino, (2*extents-1)*pageBytes
			}
			made := &layout.Op{Type: layout.OpCreate, Seq: op.Seq, Ino: f.root.NextIno, Parent: 1, Mode: items.ModeReg | 0o644, Name: "made"}
			op.Seq++
			f.putLog([][]*layout.Op{{made, &op}}, 0, false)
			f.writeRoot()
			f.close()
			v, err := Open(dev, Options{Credential: checkKey(t), CommitInterval: -1, Memory: minMemory})
			if err != nil {
				t.Log(err)
				if !errors.Is(err, vfs.ErrCorrupt) && !errors.Is(err, txn.ErrMemory) {
					t.Error(err)
				}
				return
			}
			t.Logf("%d commits", v.com.commits.Load())
			if v.com.commits.Load() < 3 && op.Flags&^layout.FallocReserve == 0 { // what becomes a hole leaves few pages
				t.Errorf("%d commits: all of it was in memory at once", v.com.commits.Load())
			}
			ok(t, v.Close())
			checkClean(t, dev)
		})
	}
}
