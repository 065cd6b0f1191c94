package volume

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// A look keeps the references to the lowest extents, all of each; the next ones go
// on above, however those to what is left alone are strewn.
func TestSharedLooks(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 10))
		const limit = 20
		var all []sharedRef
		for o := range uint64(40) {
			for range 2 + rng.IntN(8) {
				all = append(all, sharedRef{origin: o * 100, ino: rng.Uint64N(50), block: uint64(len(all)), count: 1})
			}
			if o == seed%80 { // more than a look has room for
				for range 3 * limit {
					all = append(all, sharedRef{origin: o * 100, ino: rng.Uint64N(50), block: uint64(len(all)), count: 1})
				}
			}
		}
		slices.SortFunc(all, func(a, b sharedRef) int { return cmp.Or(cmp.Compare(a.ino, b.ino), cmp.Compare(a.block, b.block)) })
		done := map[uint64]int{} // extents, and in how many looks
		taken := map[layout.Key]bool{}
		for l := (look{limit: limit}); ; l = (look{limit: limit, from: l.next, low: l.high}) {
			for i := range all {
				if k := all[i].key(); !k.Less(l.from) && !taken[k] {
					l.add(&all[i])
				}
			}
			l.cut()
			if len(l.refs) > limit || len(l.refs) == 0 && l.more {
				t.Fatalf("seed %d: %d references", seed, len(l.refs))
			}
			for i := range l.refs {
				if i == 0 || l.refs[i].origin != l.refs[i-1].origin {
					done[l.refs[i].origin]++
				}
				taken[l.refs[i].key()] = true
			}
			if !l.more {
				break
			}
		}
		if len(taken) != len(all) {
			t.Fatalf("seed %d: %d of %d references were taken", seed, len(taken), len(all))
		}
		for o, n := range done {
			if n > 1 && o != seed%80*100 {
				t.Fatalf("seed %d: the extent at %d was taken %d times", seed, o, n)
			}
		}
	}
}

// Damage in as much shared data as a look takes keeps a rotation from nothing else.
func TestRotateSharedDamageLooks(t *testing.T) {
	dev := device.NewMem(80 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	rng := rand.New(rand.NewPCG(7, 9))
	var inos [6]vfs.Ino
	for i := range inos {
		inos[i] = writeFile(t, v, fmt.Sprint(i), nil)
	}
	for _, i := range []int{2, 0} { // the one that is damaged lies first
		_, err := v.Write(crashReq, inos[i], 0, noise(rng, bufferBytes), false)
		ok(t, err)
		ok(t, v.Sync(vfs.RootIno))
	}
	share(t, v, inos[2], 0, inos[3], 0, bufferBytes)
	share(t, v, inos[2], 0, inos[4], 0, bufferBytes)
	share(t, v, inos[0], 0, inos[5], 0, bufferBytes)
	mustClose(t, v)
	v = mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
	v.rot.look = 2
	es, err := v.data.extents(uint64(inos[2]), 0, 100, 1)
	ok(t, err)
	dev.Corrupt(int64(es[0].Addr)+layout.BlockBytes, func(b []byte) { b[0] ^= 1 })
	_, err = v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(t).Credential}, BytesPerSecond: -1})
	ok(t, err)
	if s := rotated(t, v); s.Phase != RotationWaiting || len(s.Epochs) != 2 {
		t.Fatalf("%+v", s)
	}
	es, err = v.data.extents(uint64(inos[5]), 0, 100, 1)
	ok(t, err)
	if es[0].Epoch != 2 {
		t.Fatal("what can be read was not rewritten")
	}
	mustClose(t, v)
}

// Shared data is read as it lies, not block by block.
func TestRotateSharedReads(t *testing.T) {
	mem := device.NewMem(80 << 20)
	mustFormat(t, mem)
	fault := device.NewFault(mem, nil)
	v := mustOpen(t, fault, Options{CommitInterval: -1, Memory: minMemory})
	src := writeFile(t, v, "src", noise(rand.New(rand.NewPCG(8, 9)), 1<<20))
	share(t, v, src, 0, writeFile(t, v, "copy", nil), 0, 1<<20)
	ok(t, v.Sync(vfs.RootIno))
	es, err := v.data.extents(uint64(src), 0, 256, 0)
	ok(t, err)
	var reads atomic.Int32
	fault.SetHook(func(_ int, op device.Op, off int64, _ int) error {
		for i := range es {
			if from := int64(es[i].Addr); op == device.OpRead && off >= from && off < from+int64(es[i].Blocks())*pageBytes {
				reads.Add(1)
			}
		}
		return nil
	})
	rotateAll(t, v)
	fault.SetHook(nil)
	if n := int(reads.Load()); n != len(es) {
		t.Errorf("%d extents were read with %d calls", len(es), n)
	}
	mustClose(t, v)
}
