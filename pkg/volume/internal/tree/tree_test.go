package tree

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// model is the tree's reference.
type model struct {
	t    testing.TB
	rng  *rand.Rand
	want map[layout.Key][]byte
	keys []layout.Key // some that exist or existed
	span uint64
	big  bool // some large values
	huge bool // nearly all: few items make many levels
}

func (m *model) key() layout.Key {
	if len(m.keys) > 0 && m.rng.IntN(3) > 0 {
		k := m.keys[m.rng.IntN(len(m.keys))]
		if m.rng.IntN(2) == 0 {
			k.Sub += m.rng.Uint64N(5) - 2
		}
		return k
	}
	return layout.Key{Obj: m.rng.Uint64N(m.span), Type: uint8(1 + m.rng.IntN(3)), Sub: m.rng.Uint64N(m.span)}
}

func (m *model) value() []byte {
	n := m.rng.IntN(60)
	switch {
	case m.huge && m.rng.IntN(8) > 0:
		n = 3000 + m.rng.IntN(layout.MaxValue-2999)
	case m.big && m.rng.IntN(4) == 0:
		n = m.rng.IntN(layout.MaxValue + 1)
	case m.big && m.rng.IntN(16) == 0:
		n = layout.MaxValue
	}
	v := make([]byte, n)
	for i := range min(n, 16) {
		v[i] = byte(m.rng.Uint32())
	}
	return v
}

// step makes one change: grow is the share of insertions in 16.
func (m *model) step(tr *Tree, grow int) {
	m.t.Helper()
	err := tr.Update(func(w *Writer) error {
		k := m.key()
		if m.rng.IntN(16) < grow {
			v := m.value()
			m.want[k] = v
			if len(m.keys) < 1<<16 {
				m.keys = append(m.keys, k)
			}
			return w.Put(k, v)
		}
		// runs of neighbours too: whole pages go
		n := 1
		if m.rng.IntN(150) == 0 {
			n = 1 + m.rng.IntN(1+len(m.want)/8)
		}
		var run []layout.Key
		if err := w.Scan(k, layout.Key{Obj: ^uint64(0)}, func(k layout.Key, _ []byte) bool {
			run = append(run, k)
			return len(run) < n
		}); err != nil {
			return err
		}
		for _, k := range append(run, k) {
			_, want := m.want[k]
			got, err := w.Delete(k)
			if err != nil {
				return err
			}
			if got != want {
				return fmt.Errorf("delete %v: %t instead of %t", k, got, want)
			}
			delete(m.want, k)
		}
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
}

// compareFloor scans from the last item of some [low, from].
func (m *model) compareFloor(tr *Tree, sorted []layout.Key) {
	m.t.Helper()
	b := []layout.Key{m.key(), m.key(), m.key()}
	slices.SortFunc(b, layout.Key.Compare)
	low, from, to := b[0], b[1], b[2]
	first, exact := slices.BinarySearchFunc(sorted, from, layout.Key.Compare)
	if !exact && first > 0 && !sorted[first-1].Less(low) {
		first--
	}
	for name, scan := range map[string]func(fn func(layout.Key, []byte) bool) error{
		"tree": func(fn func(layout.Key, []byte) bool) error { return tr.ScanFloor(low, from, to, fn) },
		"writer": func(fn func(layout.Key, []byte) bool) error {
			return tr.Update(func(w *Writer) error { return w.ScanFloor(low, from, to, fn) })
		},
	} {
		var got []layout.Key
		if err := scan(func(k layout.Key, _ []byte) bool {
			got = append(got, k)
			return len(got) < 300
		}); err != nil {
			m.t.Fatal(err)
		}
		for i, k := range got {
			if first+i >= len(sorted) || sorted[first+i] != k {
				m.t.Fatalf("%s: from the floor of %v down to %v: item %d is %v", name, from, low, i, k)
			}
		}
		if end := first + len(got); len(got) < 300 && end < len(sorted) && !to.Less(sorted[end]) {
			m.t.Fatalf("%s: from the floor of %v down to %v: the scan ended before %v", name, from, low, sorted[end])
		}
	}
}

func (m *model) compare(tr *Tree) {
	m.t.Helper()
	sorted := slices.SortedFunc(maps.Keys(m.want), layout.Key.Compare)
	i := 0
	err := tr.Scan(layout.Key{}, layout.Key{Obj: ^uint64(0), Type: 255, Sub: ^uint64(0)}, func(k layout.Key, v []byte) bool {
		if i >= len(sorted) || sorted[i] != k || !bytes.Equal(m.want[k], v) {
			m.t.Errorf("scan: item %d is %v", i, k)
			return false
		}
		i++
		return true
	})
	if err != nil || i != len(sorted) {
		m.t.Fatalf("scan: %d items of %d, %v", i, len(sorted), err)
	}
	for _, k := range sorted {
		if v, ok, err := tr.Get(k, nil); err != nil || !ok || !bytes.Equal(v, m.want[k]) {
			m.t.Fatalf("get %v: %t %v", k, ok, err)
		}
	}
	for range 50 {
		m.compareFloor(tr, sorted)
		k := m.key()
		_, want := m.want[k]
		if _, ok, err := tr.Get(k, nil); err != nil || ok != want {
			m.t.Fatalf("get %v: %t instead of %t, %v", k, ok, want, err)
		}
	}
}

func TestModel(t *testing.T) {
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 1))
			m := &model{t: t, rng: rng, want: map[layout.Key][]byte{}, span: []uint64{3, 1000, 1 << 40}[seed%3], big: seed%2 == 0, huge: seed%4 == 1}
			d := newDisk(t)
			gen := uint64(1)
			tr := d.tree(1, layout.Pointer{}, gen)
			for round := range 24 {
				grow := []int{15, 12, 8, 6, 2}[rng.IntN(5)]
				if round < 4 {
					grow = 15
				}
				for range 100 + rng.IntN(3000) {
					m.step(tr, grow)
				}
				if rng.IntN(3) == 0 {
					m.compare(tr)
				}
				// Half of the commits have the next generation go on meanwhile.
				var between func()
				if rng.IntN(2) == 0 {
					between = func() {
						for range rng.IntN(300) {
							m.step(tr, grow)
						}
					}
				}
				root := d.commit(tr, gen, between)
				gen++
				if between != nil {
					root = d.commit(tr, gen, nil) // the pages freed meanwhile are not live any more
					gen++
				}
				d.verify(root, m.want)
				if d.dirty != 0 {
					t.Fatalf("%d pages are counted as dirty after the commit", d.dirty)
				}
				if rng.IntN(4) == 0 {
					m.compare(tr)
				}
				if rng.IntN(4) == 0 {
					tr = d.tree(1, root, gen)
					m.compare(tr)
				}
			}
			// All goes, and every page comes back.
			for k := range maps.Clone(m.want) {
				if err := tr.Update(func(w *Writer) error {
					_, err := w.Delete(k)
					delete(m.want, k)
					return err
				}); err != nil {
					t.Fatal(err)
				}
			}
			if root := d.commit(tr, gen, nil); !root.IsZero() || len(d.live) != 0 {
				t.Fatalf("an empty tree has %d pages", len(d.live))
			}
		})
	}
}

// An operation touches one path, however many items there are.
func TestCost(t *testing.T) {
	for _, n := range []uint64{1000, 10_000, 200_000} {
		d := newDisk(t)
		tr := d.tree(1, layout.Pointer{}, 1)
		key := func(i uint64) layout.Key { return layout.Key{Obj: 1, Type: 1, Sub: i * 0x9e3779b97f4a7c15} }
		for i := range n {
			if err := tr.Update(func(w *Writer) error { return w.Put(key(i), make([]byte, 100)) }); err != nil {
				t.Fatal(err)
			}
		}
		root := d.commit(tr, 1, nil)
		height := int(root.Level) + 1
		if limit := 3; height > limit {
			t.Fatalf("%d items: height %d", n, height)
		}
		gen := uint64(2)
		for i := range uint64(100) {
			tr = d.tree(1, root, gen)
			d.loads = 0
			if _, ok, err := tr.Get(key(i), nil); !ok || err != nil || d.loads > height {
				t.Fatalf("%d items: a look-up read %d pages (%t %v)", n, d.loads, ok, err)
			}
			d.loads = 0
			if err := tr.Update(func(w *Writer) error {
				if i%2 == 0 {
					return w.Put(key(n+i), make([]byte, 100))
				}
				_, err := w.Delete(key(500 + i))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			// A split or a merge may add a page at each level.
			if d.dirty > 2*height || d.loads > 3*height {
				t.Fatalf("%d items: a change dirtied %d pages and read %d", n, d.dirty, d.loads)
			}
			root = d.commit(tr, gen, nil)
			gen++
		}
	}
}

// readKeys is the number of keys of TestConcurrentReaders. Multiples of 3 stay.
const readKeys = 4000

func readKey(i uint64) layout.Key { return layout.Key{Obj: i / 10, Type: 2, Sub: i % 10} }

// wholeValue tells whether a value is one that was put, and no mixture.
func wholeValue(v []byte) bool { return len(v) >= 100 && bytes.Count(v, v[:1]) == len(v) }

// Readers see whole values while the tree changes and is committed. The cache
// is small, so that most reads miss.
func TestConcurrentReaders(t *testing.T) {
	d := newDisk(t)
	tr := d.tree(1, layout.Pointer{}, 1)
	put := func(i uint64, fill byte) {
		v := bytes.Repeat([]byte{fill}, 100+int(i%700))
		if err := tr.Update(func(w *Writer) error { return w.Put(readKey(i), v) }); err != nil {
			t.Error(err)
		}
	}
	for i := range uint64(readKeys) {
		put(i, 1)
	}
	d.commit(tr, 1, nil)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for r := range uint64(3) {
		wg.Go(func() { readConcurrently(t, tr, rand.New(rand.NewPCG(r, 5)), stop) })
	}
	rng := rand.New(rand.NewPCG(3, 3))
	for gen := uint64(2); gen < 25; gen++ {
		change := func() {
			for range 150 {
				i := rng.Uint64N(readKeys)
				if i%3 != 0 && rng.IntN(2) == 0 {
					if err := tr.Update(func(w *Writer) error { _, err := w.Delete(readKey(i)); return err }); err != nil {
						t.Error(err)
					}
					continue
				}
				put(i, byte(gen))
			}
		}
		change()
		d.commit(tr, gen, change)
	}
	close(stop)
	wg.Wait()
}

// readConcurrently looks up and scans until it is stopped.
func readConcurrently(t *testing.T, tr *Tree, rng *rand.Rand, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		i := rng.Uint64N(readKeys)
		v, ok, err := tr.Get(readKey(i), nil)
		if err != nil || !ok && i%3 == 0 || ok && !wholeValue(v) {
			t.Errorf("get %d: %t %v", i, ok, err)
			return
		}
		seen := 0
		var last layout.Key
		err = tr.Scan(readKey(i), readKey(i+200), func(k layout.Key, v []byte) bool {
			if !last.Less(k) || !wholeValue(v) {
				t.Errorf("scan: %v after %v", k, last)
			}
			last = k
			if (k.Obj*10+k.Sub)%3 == 0 {
				seen++
			}
			return true
		})
		if want := int((min(i+200, readKeys-1))/3 - (i+2)/3 + 1); err != nil || seen != want {
			t.Errorf("scan from %d: %d of those that stay, %d wanted, %v", i, seen, want, err)
			return
		}
	}
}

// A page may be freed and overwritten while a reader that holds no pin is on
// its way to it: the reader has to look again, not to report damage.
func TestReadOvertaken(t *testing.T) {
	d := newDisk(t)
	tr := d.tree(1, layout.Pointer{}, 1)
	k := layout.Key{Obj: 1, Type: 1}
	put := func(v byte) {
		if err := tr.Update(func(w *Writer) error { return w.Put(k, []byte{v}) }); err != nil {
			t.Fatal(err)
		}
	}
	put(1)
	root := d.commit(tr, 1, nil)
	overtaken := false
	var cache *Cache
	cache = NewCache(1, func(p *layout.Pointer) ([]byte, error) {
		if !overtaken {
			overtaken = true
			put(2)
			d.commit(tr, 2, nil)
			cache.mu.Lock()
			clear(cache.nodes)
			cache.mu.Unlock()
			d.mu.Lock()
			delete(d.pages, p.Addr)
			d.mu.Unlock()
		}
		return d.load(p)
	})
	tr = New(Config{ID: layout.TreeFS, Cache: cache, Free: d.free, Dirtied: d.dirtied}, root, 2)
	v, ok, err := tr.Get(k, nil)
	if err != nil || !ok || v[0] != 2 {
		t.Fatalf("%v %t %v", v, ok, err)
	}
	// Where the page is really gone, that is an error.
	d.mu.Lock()
	clear(d.pages)
	d.mu.Unlock()
	cache.mu.Lock()
	clear(cache.nodes)
	cache.mu.Unlock()
	if _, _, err := tr.Get(k, nil); err == nil {
		t.Fatal("a lost page was not noticed")
	}
}

// Pages in the wrong order under a root that verifies: a scan ends.
func TestScanOutOfOrder(t *testing.T) {
	d := newDisk(t)
	tr := d.tree(1, layout.Pointer{}, 1)
	for i := range uint64(400) {
		if err := tr.Update(func(w *Writer) error { return w.Put(layout.Key{Obj: 1, Sub: i}, make([]byte, 100)) }); err != nil {
			t.Fatal(err)
		}
	}
	root := d.commit(tr, 1, nil)
	n := layout.FromCanonical(d.pages[root.Addr])
	if n.Level() != 1 || n.Count() < 3 {
		t.Fatal("the tree is too small")
	}
	k := n.Key(2)
	k.Sub--
	n.SetKey(1, k)
	all := layout.Key{Obj: ^uint64(0)}
	fn := func(layout.Key, []byte) bool { return true }
	from := n.Key(0)
	from.Sub += k.Sub - 2
	if err := d.tree(1, root, 2).Scan(from, all, fn); !errors.Is(err, layout.ErrCorrupt) {
		t.Fatal(err)
	}
	if err := d.tree(1, root, 2).Update(func(w *Writer) error { return w.Scan(from, all, fn) }); !errors.Is(err, layout.ErrCorrupt) {
		t.Fatal(err)
	}
}
