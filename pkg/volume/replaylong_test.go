package volume

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// longLog is a volume whose log changes more than a mount with minMemory keeps at once.
// Its last operations refer to data, which lies there from the start, in the file "data".
func longLog(t *testing.T) (dev *device.Mem, files int, data []byte) {
	fx := newFixture(t, 1<<30)
	files = 2*maxIdle + 2000
	rng := rand.New(rand.NewPCG(5, 5))
	data = noise(rng, 64<<10)
	f := newForge(t, fx.dev, rng)
	defer f.close()
	root, ino := f.root, f.root.NextIno
	record := func(i int) layout.FileExtent {
		buf := device.AlignedBytes(16 << 10)
		rec, err := f.store.SealData(ino, uint64(4*i), root.Generation+1, data[i<<14:(i+1)<<14], buf)
		ok(t, err)
		// In the space that commits take first, if nothing keeps them from it.
		rec.Addr = (root.DataStart() + 400 + uint64(40*i)) * layout.BlockBytes
		ok(t, f.store.Write(buf, rec.Addr))
		return layout.FileExtent{Record: rec, RefBirth: rec.Birth}
	}
	ops := []*layout.Op{{Type: layout.OpCreate, Ino: ino, Parent: 1, Mode: items.ModeReg | 0o644, Name: "data"}}
	for i := range files {
		ops = append(ops, &layout.Op{Type: layout.OpCreate, Ino: ino + 1 + uint64(i), Parent: 1, Mode: items.ModeReg | 0o600, Name: fmt.Sprint(i)})
	}
	for i := range 4 {
		ops = append(ops, &layout.Op{Type: layout.OpWriteRef, Ino: ino, Off: uint64(i) << 14, Len: 1 << 14, Extents: []layout.FileExtent{record(i)}})
	}
	for i, op := range ops {
		op.Seq = root.OpSeq + uint64(i)
	}
	f.putLog([][]*layout.Op{ops[:100], ops[100:]}, 0, false)
	f.writeRoot()
	return fx.dev, files, data
}

func checkLong(t *testing.T, v *Volume, files int, data []byte) {
	t.Helper()
	a, err := v.Lookup(vfs.RootIno, "data")
	ok(t, err)
	got := make([]byte, len(data)+1)
	if n, err := v.Read(a.Ino, 0, got); err != nil || !bytes.Equal(got[:n], data) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	n := 0
	ok(t, v.ReadDir(vfs.RootIno, 0, false, func(vfs.Dirent, *vfs.Attr) bool { n++; return true }))
	if n != files+1 {
		t.Fatalf("%d names of %d", n, files+1)
	}
}

// TestLongReplay applies a log by more than one root, with a power cut anywhere.
func TestLongReplay(t *testing.T) {
	dev, files, data := longLog(t)
	opts := Options{Credential: checkKey(t), CommitInterval: -1, Memory: minMemory}
	readOnly := opts
	readOnly.ReadOnly = true
	if _, err := Open(dev, readOnly); !errors.Is(err, ErrMemory) {
		t.Errorf("without writing, in the least memory: %v", err)
	}
	readOnly.Memory = DefaultMemory
	v, err := Open(dev, readOnly)
	ok(t, err)
	checkLong(t, v, files, data)
	ok(t, v.Close())
	whole := dev.Clone()
	v, err = Open(whole, opts)
	ok(t, err)
	if v.com.commits.Load() < 3 {
		t.Errorf("%d commits at a mount: none in the middle", v.com.commits.Load())
	}
	checkLong(t, v, files, data)
	writes := whole.Writes()
	ok(t, v.Close())
	checkClean(t, whole)
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range rounds { // from the start of the mount to its end
		cut := dev.Clone()
		cut.CutAfter(1 + i*writes/rounds + rng.IntN(writes/rounds))
		if v, err := Open(cut, opts); err == nil {
			_ = v.Close()
		}
		img := cut.Crash(device.CrashMode(rng.IntN(3)), rng)
		checkClean(t, img)
		v, err := Open(img, opts)
		ok(t, err)
		checkLong(t, v, files, data)
		ok(t, v.Close())
		checkClean(t, img)
	}
}
