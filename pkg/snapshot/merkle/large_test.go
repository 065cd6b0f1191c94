package merkle

import (
	"encoding/binary"
	"errors"
	"iter"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// TestLargeValues: attributes of 64 KiB.
func TestLargeValues(t *testing.T) {
	for _, places := range []int{0, 120} {
		c, r, m := testConfig(&fakeNodes{}), rand.New(rand.NewPCG(5, 6)), model{}
		for i := range uint64(300) {
			b := make([]byte, maxContent-int(i%3)*20_000)
			for j := 0; j < len(b); j += 8 {
				b[j] = byte(r.Uint32())
			}
			m[logical.Key{Ino: 1 + i/100, Type: 3, Sub: i << 16}] = string(b)
		}
		root, _ := build(t, c, m)
		checkMap(t, c, root, m)
		for l, list := range weigh(t, c, root) {
			for _, w := range list {
				if w < cutMin || w > 256<<10+places {
					t.Errorf("a node of level %d weighs %d", l, w)
				}
			}
		}
		small := Change{Key: logical.Key{Ino: 1, Type: 3, Sub: 50<<16 + 1}, Value: value(places, r, []byte("small"))}
		changed, s := update(t, c, root, seq([]Change{small}))
		m.apply([]Change{small})
		checkMap(t, c, changed, m)
		if s.Written > 6 {
			t.Errorf("one small attribute: %+v", s)
		}
	}
	c := testConfig(&fakeNodes{})
	for name, v := range map[string][]byte{"content": value(0, nil, make([]byte, maxContent+1)), "places": value(200, rand.New(rand.NewPCG(1, 1)), []byte("x"))} {
		_, _, err := Update(t.Context(), c, Root{}, seq([]Change{{Key: logical.Key{Ino: 1}, Value: v}}))
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := Update(t.Context(), c, Root{}, seq([]Change{{Key: logical.Key{Ino: 1}, Value: []byte{}}})); !errors.Is(err, errValue) {
		t.Errorf("an invalid value: %v", err)
	}
}

// TestManyTiny: a million keys with the smallest values, all of one inode, or each of its own.
func TestManyTiny(t *testing.T) {
	for _, one := range []bool{true, false} {
		c := testConfig(&fakeNodes{})
		count := 1_000_000
		if testing.Short() {
			count /= 8
		}
		root, s := update(t, c, Root{}, tiny(uint64(count), one))
		n := 0
		for it, err := range Open(c, root).Scan(t.Context(), logical.Key{}, LastKey) {
			if err != nil {
				t.Fatal(err)
			}
			if n++; uint64(n) != it.Key.Sub+it.Key.Ino-1 {
				t.Fatal(it.Key)
			}
		}
		for l, list := range weigh(t, c, root) {
			for _, w := range list {
				if w < cutMin || w > 256<<10 {
					t.Errorf("a node of level %d weighs %d", l, w)
				}
			}
		}
		t.Logf("one inode: %v, height %d, %+v", one, root.Height, s)
		if n != count {
			t.Errorf("%d items", n)
		}
	}
}

// tiny returns keys with empty content.
func tiny(n uint64, one bool) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		for i := range n {
			k := logical.Key{Ino: i + 1, Type: 1, Sub: 1}
			if one {
				k = logical.Key{Ino: 1, Type: 4, Sub: i + 1}
			}
			if !yield(Change{Key: k, Value: []byte{0}}, nil) {
				return
			}
		}
	}
}

// live returns the bytes of all objects that are in use.
func live() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestMemory: an update needs the same little memory whatever the number of facts and changes.
func TestMemory(t *testing.T) {
	const limit = 32 << 20
	facts := uint64(2_000_000)
	if testing.Short() {
		facts /= 8
	}
	kept := &fakeNodes{}
	for _, run := range []struct {
		name  string
		nodes *fakeNodes
		old   bool
	}{{"build", &fakeNodes{drop: true}, false}, {"store", kept, false}, {"update", kept, true}} {
		c := testConfig(run.nodes)
		c.Parallel = 8
		var old Root
		if run.old {
			old, _ = update(t, c, Root{}, facts2(facts, 0))
			run.nodes.mu.Lock()
			run.nodes.drop = true
			run.nodes.mu.Unlock()
		}
		before, most, n := live(), int64(0), 0
		stored := run.nodes.bytesPut
		_, s := update(t, c, old, func(yield func(Change, error) bool) {
			for ch, err := range facts2(facts, 1) {
				if err != nil {
					t.Fatal(err)
				}
				if n++; n%200_000 == 0 {
					used := live() - before
					if !run.nodes.drop {
						used -= run.nodes.bytesPut - stored
					}
					most = max(most, used)
				}
				if old != (Root{}) && ch.Key.Ino%50 != 0 {
					continue
				}
				if !yield(ch, nil) {
					return
				}
			}
		})
		t.Logf("%s: %d KiB, %+v", run.name, most>>10, s)
		if most > limit {
			t.Errorf("%s: %d bytes in use", run.name, most)
		}
	}
}

// facts2 returns small facts.
func facts2(n uint64, version byte) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		var b [20]byte
		for i := range n {
			binary.LittleEndian.PutUint64(b[2:], i)
			b[1] = version
			if !yield(Change{Key: logical.Key{Ino: i/4 + 1, Type: 1, Sub: i % 4}, Value: b[:]}, nil) {
				return
			}
		}
	}
}
