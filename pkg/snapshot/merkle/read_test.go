package merkle

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// TestJoinedLoads: a node that many want is read once; one of them that is canceled fails alone.
func TestJoinedLoads(t *testing.T) {
	nodes := &fakeNodes{}
	c := testConfig(nodes)
	root, _ := update(t, c, Root{}, typical(10))
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		first, cancel := context.WithCancel(t.Context())
		nodes.onGet = func() {
			select {
			case <-release:
			case <-first.Done():
			}
		}
		nodes.gets = 0
		m := Open(Config{Nodes: canceling{nodes, first}, Cut: c.Cut, Content: c.Content}, root)
		get := func(ctx context.Context) error {
			_, _, err := m.Get(ctx, logical.Key{Ino: 1, Type: 1})
			return err
		}
		failed := make(chan error, 1)
		go func() { failed <- get(first) }()
		synctest.Wait()
		impatient, giveUp := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() { gone <- get(impatient) }()
		var others sync.WaitGroup
		for range 20 {
			others.Go(func() {
				if err := get(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		giveUp()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if nodes.gets != 0 || m.Reads() != 1 {
			t.Errorf("%d reads", m.Reads())
		}
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		close(release)
		others.Wait()
		if m.Reads() != 2 {
			t.Errorf("%d reads, one of them canceled", m.Reads())
		}
	})
}

// TestCache: a cache has no more bytes than it may, and keeps what was used last.
func TestCache(t *testing.T) {
	nodes := &fakeNodes{}
	c := testConfig(nodes)
	root, _ := update(t, c, Root{}, typical(30_000))
	c.CacheBytes = 1 << 20
	m, r := Open(c, root), rand.New(rand.NewPCG(1, 1))
	check := func() {
		bytes := 0
		for e := m.cache.recent.Front(); e != nil; e = e.Next() {
			bytes += e.Value.(*entry).n.memory()
		}
		if bytes != m.cache.bytes || bytes > c.CacheBytes || len(m.cache.entries) != m.cache.recent.Len() || len(m.cache.loading) != 0 {
			t.Fatalf("%d bytes, noted as %d", bytes, m.cache.bytes)
		}
	}
	var group sync.WaitGroup
	for range 8 {
		seed := r.Uint64()
		group.Go(func() {
			r := rand.New(rand.NewPCG(seed, 1))
			for range 300 {
				k := logical.Key{Ino: 1 + r.Uint64N(30_000), Type: 1}
				if it, ok, err := m.Floor(t.Context(), k); err != nil || !ok || it.Key != k {
					t.Error(it.Key, ok, err)
				}
			}
		})
	}
	group.Wait()
	check()
	before := m.Reads()
	for i := range uint64(1000) {
		if _, _, err := m.Get(t.Context(), logical.Key{Ino: 1 + i%3*10_000, Type: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if n := m.Reads() - before; n > 3*int64(root.Height)+3 {
		t.Errorf("%d reads of three paths", n)
	}
	c.CacheBytes = 1 // nothing fits
	m = Open(c, root)
	if _, ok, err := m.Get(t.Context(), logical.Key{Ino: 5, Type: 1}); err != nil || !ok || m.cache.recent.Len() != 0 {
		t.Error(ok, err)
	}
}

// TestWalk: all nodes, each before those below it, whatever is read ahead; also without some.
func TestWalk(t *testing.T) {
	nodes := &fakeNodes{}
	c, root, m := smallMap(t, nodes)
	var want []NodeRef
	for _, parallel := range []int{0, 1, 7} {
		c.Parallel = parallel
		var got []NodeRef
		items, entered := 0, 0
		err := Open(c, root).Walk(t.Context(), func(*NodeRef) bool { entered++; return true }, func(n *Node) error {
			got = append(got, n.NodeRef)
			for it := range n.Items() {
				if _, ok := m[it.Key]; !ok {
					t.Fatal(it.Key)
				}
				items++
			}
			if n.Count() == 0 || n.Bytes() != int(n.Ref.Length) {
				t.Error(n.Count(), n.Bytes())
			}
			return nil
		})
		if err != nil || items != len(m) || entered != len(nodes.m) || len(got) != len(nodes.m) {
			t.Fatalf("%d items, %d nodes of %d, %v", items, len(got), len(nodes.m), err)
		}
		if want == nil {
			want = got
		}
		if !slices.Equal(got, want) {
			t.Errorf("parallel %d: another order", parallel)
		}
	}
	if want[0].Level != int(root.Height) || want[0].Content != root.Content {
		t.Error(want[0])
	}
	for i := range want[1:] {
		if want[i+1].Level > want[i].Level && want[i].Level != 0 {
			t.Fatalf("level %d after %d", want[i+1].Level, want[i].Level)
		}
	}
	inner := 0
	nodes.gets = 0
	err := Open(c, root).Walk(t.Context(), func(n *NodeRef) bool { return n.Level > 0 }, func(n *Node) error {
		if n.Level == 0 {
			t.Error("a leaf")
		}
		inner++
		return nil
	})
	if err != nil || inner != nodes.gets || inner == 0 {
		t.Errorf("%d nodes, %d read, %v", inner, nodes.gets, err)
	}
	stop := errors.New("stop here")
	if err := Open(c, root).Walk(t.Context(), nil, func(n *Node) error {
		if n.Level == 0 {
			return stop
		}
		return nil
	}); !errors.Is(err, stop) {
		t.Error(err)
	}
	if err := Open(c, Root{}).Walk(t.Context(), nil, nil); err != nil {
		t.Error(err)
	}
}

// TestReadAhead: as many nodes as allowed are read at once, by scans and by updates, and no more.
func TestReadAhead(t *testing.T) {
	nodes := &fakeNodes{}
	c, root, m := smallMap(t, nodes)
	for _, parallel := range []int{1, 4} {
		for name, use := range map[string]func(context.Context, *Map) error{
			"scan": func(ctx context.Context, m *Map) error {
				for _, err := range m.Scan(ctx, logical.Key{}, LastKey) {
					if err != nil {
						return err
					}
				}
				return nil
			},
			"diff": func(ctx context.Context, m *Map) error {
				for _, err := range Diff(ctx, m, Open(Config{}, Root{})) {
					if err != nil {
						return err
					}
				}
				return nil
			},
			"update": func(ctx context.Context, old *Map) error {
				var changes []Change
				for _, k := range m.sorted() {
					changes = append(changes, Change{Key: k, Value: []byte{0, 1}})
				}
				_, _, err := old.Update(ctx, seq(changes))
				return err
			},
		} {
			synctest.Test(t, func(t *testing.T) {
				var now, most atomic.Int32
				slow := &slowNodes{fakeNodes: nodes, enter: func() {
					n := now.Add(1)
					for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
						continue
					}
				}, leave: func() { now.Add(-1) }}
				config := c
				config.Nodes, config.Parallel = slow, parallel
				if err := use(t.Context(), Open(config, root)); err != nil {
					t.Error(err)
				}
				t.Logf("%s, parallel %d: %d at once", name, parallel, most.Load())
				// A scan reads ahead at each level.
				if most.Load() < int32(parallel) || most.Load() > int32(parallel)*int32(root.Height)+2 {
					t.Errorf("%s, parallel %d: %d nodes were read at once", name, parallel, most.Load())
				}
			})
		}
	}
}

// TestErrors: an error of the store or of the changes ends everything, with that error.
func TestErrors(t *testing.T) {
	nodes := &fakeNodes{}
	c, root, m := smallMap(t, nodes)
	broken := errors.New("broken")
	for _, parallel := range []int{0, 4} {
		c.Parallel = parallel
		for i := range 40 {
			fail := &failNodes{fakeNodes: nodes, after: i, err: broken}
			config := c
			config.Nodes = fail
			_, _, err := Update(t.Context(), config, root, m.changes())
			if fail.failed && !errors.Is(err, broken) || !fail.failed && err != nil {
				t.Fatal(fail.failed, err)
			}
			fail.failed, fail.left = false, i
			err = nil
			for _, err = range Open(config, root).Scan(t.Context(), logical.Key{}, LastKey) {
				if err != nil {
					break
				}
			}
			if fail.failed && !errors.Is(err, broken) {
				t.Fatal(err)
			}
		}
		_, _, err := Update(t.Context(), c, root, func(yield func(Change, error) bool) {
			if yield(Change{Key: logical.Key{Ino: 3}, Value: []byte{0}}, nil) && yield(Change{}, broken) {
				t.Error("it goes on after an error")
			}
		})
		if !errors.Is(err, broken) {
			t.Error(err)
		}
	}
	k := func(ino uint64, typ logical.Type) logical.Key { return logical.Key{Ino: ino, Type: typ} }
	for name, changes := range map[string][]Change{
		"the same twice":             {{Key: k(1, 1)}, {Key: k(1, 1)}},
		"descending":                 {{Key: k(1, 2)}, {Key: k(1, 1)}},
		"an inode after its facts":   {{Key: k(1, 2)}, {Key: k(1, 3), Inode: true}},
		"an inode twice":             {{Key: k(1, 1), Inode: true}, {Key: k(1, 2), Inode: true}},
		"a fact of it twice":         {{Key: k(1, 1), Inode: true, Value: []byte{0}}, {Key: k(1, 1), Value: []byte{0}}},
		"an inode before another":    {{Key: k(2, 1), Inode: true}, {Key: k(1, 1)}},
		"after an inode, descending": {{Key: k(1, 0), Inode: true}, {Key: k(1, 3), Value: []byte{0}}, {Key: k(1, 2), Value: []byte{0}}},
	} {
		if _, _, err := Update(t.Context(), c, root, seq(changes)); !errors.Is(err, ErrOrder) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
