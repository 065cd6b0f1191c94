package tree

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// kept is a tree that does not change any more.
type kept struct {
	root  layout.Pointer
	items map[layout.Key][]byte
}

// keepTrees makes trees that follow from each other, and frees nothing.
func keepTrees(t *testing.T, d *disk, rng *rand.Rand) []kept {
	nothing := func(*layout.Pointer) {}
	tr := New(Config{ID: layout.TreeFS, Cache: NewCache(1<<20, d.load), Free: nothing, Dirtied: func(int) {}}, layout.Pointer{}, 1)
	items := map[layout.Key][]byte{}
	list := []kept{{items: map[layout.Key][]byte{}}}
	for gen := range uint64(6) {
		err := tr.Update(func(w *Writer) error {
			for range []int{4000, 1, 30, 400, 3, 2000}[gen] {
				k := layout.Key{Obj: rng.Uint64N(60), Type: 1, Sub: rng.Uint64N(300)}
				if rng.IntN(3) == 0 {
					delete(items, k)
					if _, err := w.Delete(k); err != nil {
						return err
					}
					continue
				}
				items[k] = bytes.Repeat([]byte{byte(rng.Uint32())}, rng.IntN(200))
				if err := w.Put(k, items[k]); err != nil {
					return err
				}
			}
			if gen == 5 { // a part is gone
				for k := range items {
					if k.Obj > 20 && k.Obj < 40 {
						delete(items, k)
						if _, err := w.Delete(k); err != nil {
							return err
						}
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		f := tr.Freeze()
		root, pages, err := f.Write(d.write(gen + 1))
		if err != nil {
			t.Fatal(err)
		}
		f.Install(pages)
		list = append(list, kept{root, maps.Clone(items)})
	}
	return list
}

// skips is where a Differ skips: at items of these objects, to the next object.
func differences(a, b kept, skips map[uint64]bool) (list []Different) {
	keys := maps.Clone(a.items)
	maps.Copy(keys, b.items)
	seen := uint64(1 << 60)
	for _, k := range slices.SortedFunc(maps.Keys(keys), layout.Key.Compare) {
		x, y := a.items[k], b.items[k]
		if (x == nil) == (y == nil) && bytes.Equal(x, y) || skips[k.Obj] && seen == k.Obj {
			continue
		}
		seen = k.Obj
		list = append(list, Different{k, x, y})
	}
	return list
}

// TestDiffer compares all pairs of trees, with and without reading ahead and skipping.
func TestDiffer(t *testing.T) {
	for seed := range uint64(3) {
		rng := rand.New(rand.NewPCG(seed, 8))
		d := newDisk(t)
		trees := keepTrees(t, d, rng)
		skips := map[uint64]bool{}
		for range 20 {
			skips[rng.Uint64N(60)] = true
		}
		for i, a := range trees {
			for j, b := range trees {
				one := differLoads(t, d, a, b, nil, 0)
				if n := differLoads(t, d, a, b, nil, 5); n != one {
					t.Errorf("trees %d and %d: %d pages read, %d with reading ahead", i, j, one, n)
				}
				if n := differLoads(t, d, a, b, skips, 0); n > one {
					t.Errorf("trees %d and %d: %d pages read, %d with skipping", i, j, one, n)
				}
				differLoads(t, d, a, b, skips, 5)
				if i == j && one > 0 {
					t.Errorf("tree %d: %d pages read to find out that it is the same", i, one)
				}
			}
		}
	}
}

// differLoads compares two trees, and returns how many pages were read.
func differLoads(t *testing.T, d *disk, a, b kept, skips map[uint64]bool, ahead int) int {
	t.Helper()
	before := d.loads
	x := NewDiffer(NewCache(1, d.load), a.root, b.root, ahead)
	defer func() {
		if n := len(x.a.queue) + len(x.b.queue); n > 2*ahead {
			t.Errorf("%d pages were read ahead and not used", n)
		}
	}()
	defer x.Close()
	want := differences(a, b, skips)
	for i := 0; ; i++ {
		got, ok, err := x.Next()
		switch {
		case err != nil:
			t.Fatal(err)
		case !ok && i == len(want):
			x.Close()
			return d.loads - before
		case !ok || i == len(want):
			t.Fatalf("%d differences, not %d", i, len(want))
		}
		if w := want[i]; got.Key != w.Key || (got.A == nil) != (w.A == nil) || (got.B == nil) != (w.B == nil) || !bytes.Equal(got.A, w.A) || !bytes.Equal(got.B, w.B) {
			t.Fatalf("difference %d is %v, not %v", i, got.Key, w.Key)
		}
		if skips[got.Key.Obj] {
			x.SkipTo(layout.Key{Obj: got.Key.Obj + 1})
		}
	}
}
