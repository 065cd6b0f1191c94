package tree

import (
	"bytes"
	"errors"
	"maps"
	"sync"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// disk simulates the device below a tree: pages by address. It fails the
// test when a page is freed that is not live.
type disk struct {
	t testing.TB

	mu    sync.Mutex
	pages map[uint64][]byte // until the address is used again
	birth map[uint64]uint64
	live  map[uint64]bool // reachable from what is or will be the newest root
	next  uint64
	again []uint64 // addresses to use once more
	freed []uint64 // in the open generation, and the one before
	older []uint64
	loads int
	dirty int
}

func newDisk(t testing.TB) *disk {
	return &disk{t: t, pages: map[uint64][]byte{}, birth: map[uint64]uint64{}, live: map[uint64]bool{}, next: layout.NodeBytes}
}

func (d *disk) load(p *layout.Pointer) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.loads++
	b := d.pages[p.Addr]
	if b == nil || d.birth[p.Addr] != p.Birth {
		return nil, errors.New("another page lies there") // it would not verify
	}
	return bytes.Clone(b), nil
}

func (d *disk) alloc() uint64 {
	if n := len(d.again); n > 0 {
		a := d.again[n-1]
		d.again = d.again[:n-1]
		return a
	}
	d.next += layout.NodeBytes
	return d.next
}

func (d *disk) free(p *layout.Pointer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range []uint64{p.Addr, p.Addr2} {
		if a == 0 {
			continue
		}
		if !d.live[a] {
			d.t.Errorf("page at %d, level %d, is freed twice or was never written", a, p.Level)
		}
		delete(d.live, a)
		d.freed = append(d.freed, a)
	}
}

func (d *disk) dirtied(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dirty += n
}

// turn lets addresses be used again that were freed two generations ago.
func (d *disk) turn() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.again = append(d.again, d.older...)
	d.older, d.freed = d.freed, nil
}

func (d *disk) write(gen uint64) func(int, []*Page) error {
	return func(level int, pages []*Page) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, p := range pages {
			r := layout.Record{Extent: crypto.Extent{Birth: gen, Epoch: 1, PLen: layout.NodeBytes, LLen: layout.NodeBytes,
				Kind: layout.KindNode, Level: uint8(level), Object: layout.TreeFS}, Tags: make([]crypto.Tag, 1)}
			r.Addr = d.alloc()
			p.Pointer = layout.Pointer{Record: r}
			if p.Second {
				p.Pointer.Addr2 = d.alloc()
				d.live[p.Pointer.Addr2] = true
				delete(d.pages, p.Pointer.Addr2)
			}
			d.pages[r.Addr], d.birth[r.Addr] = bytes.Clone(p.Bytes), gen
			d.live[r.Addr] = true
		}
		return nil
	}
}

func (d *disk) tree(cacheBytes int, root layout.Pointer, gen uint64) *Tree {
	return New(Config{ID: layout.TreeFS, Cache: NewCache(cacheBytes, d.load), Free: d.free, Dirtied: d.dirtied}, root, gen)
}

// verify reads all that root reaches: bounds and order of all keys, births,
// every page live and none live that it does not reach.
func (d *disk) verify(root layout.Pointer, want map[layout.Key][]byte) {
	d.t.Helper()
	reached := map[uint64]bool{}
	got := 0
	var visit func(p *layout.Pointer, lo layout.Key, hi *layout.Key)
	visit = func(p *layout.Pointer, lo layout.Key, hi *layout.Key) {
		for _, a := range []uint64{p.Addr, p.Addr2} {
			if a != 0 && reached[a] {
				d.t.Fatalf("page at %d is reached twice", a)
			}
			if a != 0 {
				reached[a] = true
			}
		}
		n, err := layout.DecodeNode(d.pages[p.Addr], layout.TreeFS, p.Level)
		if err != nil {
			d.t.Fatalf("page at %d: %v", p.Addr, err)
		}
		for i := range n.Count() {
			k := n.Key(i)
			if k.Less(lo) || hi != nil && !k.Less(*hi) {
				d.t.Fatalf("page at %d, level %d: key %v is outside of %v to %v", p.Addr, p.Level, k, lo, hi)
			}
			if n.Level() == 0 {
				got++
				if w, ok := want[k]; !ok || !bytes.Equal(w, n.Value(i)) {
					d.t.Fatalf("key %v has a wrong value, or none was expected", k)
				}
				continue
			}
			c, err := layout.GetPointer(n.PointerBytesAt(i), layout.TreeFS)
			if err != nil || c.Level != p.Level-1 || c.Birth > p.Birth {
				d.t.Fatalf("page at %d, child %d: %v, level %d, birth %d", p.Addr, i, err, c.Level, c.Birth)
			}
			l, h := lo, hi
			if i > 0 {
				l = k
			}
			if i+1 < n.Count() {
				x := n.Key(i + 1)
				h = &x
			}
			visit(&c, l, h)
		}
		if n.Count() == 0 {
			d.t.Fatalf("page at %d is empty", p.Addr)
		}
	}
	if !root.IsZero() {
		visit(&root, layout.Key{}, nil)
	}
	if got != len(want) {
		d.t.Fatalf("%d items are reached, there should be %d", got, len(want))
	}
	if !maps.Equal(reached, d.live) {
		for a := range d.live {
			if !reached[a] {
				d.t.Fatalf("page at %d was never freed (%d live, %d reached)", a, len(d.live), len(reached))
			}
		}
		d.t.Fatalf("%d pages live, %d reached", len(d.live), len(reached))
	}
}

func (d *disk) commit(tr *Tree, gen uint64, between func()) layout.Pointer {
	d.t.Helper()
	f := tr.Freeze()
	if between != nil {
		between()
	}
	root, pages, err := f.Write(d.write(gen))
	if err != nil {
		d.t.Fatal(err)
	}
	f.Install(pages)
	d.dirtied(-f.Pages())
	d.turn()
	return root
}
