package merkle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/volume/logical"
)

var errNoNode = errors.New("no such node")

// fakeNodes keeps nodes in memory. Equal nodes get equal references, or, with places, a new place
// each time.
type fakeNodes struct {
	places *rand.Rand // nil: places follow from the bytes
	drop   bool       // do not keep nodes

	mu       sync.Mutex
	m        map[place2][]byte // guarded by mu
	puts     int               // guarded by mu
	gets     int               // guarded by mu
	onGet    func()
	bytesPut int64 // guarded by mu
}

type place2 struct{ pack, offset uint32 }

func (f *fakeNodes) Put(_ context.Context, plain []byte) (selfenc.PackedRef, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := selfenc.PackedRef{Stored: uint32(len(plain)) + 16, Offset: 32}
	r.Suite, r.Kind, r.Length, r.D = 1, crypto.ChunkTree, uint32(len(plain)), sha256.Sum256(plain)
	r.P = r.D
	r.Pack = binary.LittleEndian.Uint32(r.D[:])
	if f.places != nil {
		r.Pack, r.Offset, r.Slot = f.places.Uint32(), 32+f.places.Uint32N(1<<20), uint16(f.places.Uint32N(4096))
	}
	f.puts++
	f.bytesPut += int64(len(plain))
	if !f.drop {
		if f.m == nil {
			f.m = map[place2][]byte{}
		}
		f.m[place2{r.Pack, r.Offset}] = bytes.Clone(plain)
	}
	return r, r.Validate()
}

func (f *fakeNodes) Get(_ context.Context, r *selfenc.PackedRef) ([]byte, error) {
	if f.onGet != nil {
		f.onGet()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gets++
	b, ok := f.m[place2{r.Pack, r.Offset}]
	if !ok || sha256.Sum256(b) != r.D {
		return nil, errNoNode
	}
	return bytes.Clone(b), nil
}

// Values of tests: the length of a place ‖ the place ‖ content.
func value(placeBytes int, r *rand.Rand, content []byte) []byte {
	b := append(make([]byte, 0, 1+placeBytes+len(content)), byte(placeBytes))
	for range placeBytes {
		b = append(b, byte(r.Uint32()))
	}
	return append(b, content...)
}

var errValue = errors.New("invalid value")

func testContent(dst []byte, _ logical.Key, v []byte) ([]byte, error) {
	if len(v) == 0 || int(v[0]) > len(v)-1 {
		return dst, errValue
	}
	return append(dst, v[1+int(v[0]):]...), nil
}

// smallRule makes maps of some hundred items several levels high.
var smallRule = rule{min: 256, mean: 384, always: 1500}

func testConfig(n Nodes) Config {
	return Config{Nodes: n, Cut: [16]byte{1, 2, 3}, Content: testContent}
}

func smallConfig(n Nodes) Config {
	c := testConfig(n)
	c.rule = smallRule
	return c
}

// model is a map as it should be. The values have no places.
type model map[logical.Key]string

func (m model) sorted() []logical.Key {
	return slices.SortedFunc(maps.Keys(m), logical.Key.Compare)
}

// changes returns what builds the model from nothing.
func (m model) changes() iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		for _, k := range m.sorted() {
			if !yield(Change{Key: k, Value: value(0, nil, []byte(m[k]))}, nil) {
				return
			}
		}
	}
}

// apply does to the model what Update does to a map.
func (m model) apply(changes []Change) {
	for _, c := range changes {
		if c.Inode {
			maps.DeleteFunc(m, func(k logical.Key, _ string) bool { return k.Ino == c.Key.Ino })
		}
		if c.Value == nil {
			delete(m, c.Key)
			continue
		}
		b, err := testContent(nil, c.Key, c.Value)
		if err != nil {
			panic(err)
		}
		m[c.Key] = string(b)
	}
}

func seq(changes []Change) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		for _, c := range changes {
			if !yield(c, nil) {
				return
			}
		}
	}
}

func build(t testing.TB, c Config, m model) (Root, Stats) {
	t.Helper()
	return update(t, c, Root{}, m.changes())
}

func update(t testing.TB, c Config, old Root, changes iter.Seq2[Change, error]) (Root, Stats) {
	t.Helper()
	r, s, err := Update(t.Context(), c, old, changes)
	if err != nil {
		t.Fatal(err)
	}
	return r, s
}

// checkMap compares a map with the model, and reads every node in it.
func checkMap(t testing.TB, c Config, r Root, m model) {
	t.Helper()
	keys, i := m.sorted(), 0
	for it, err := range Open(c, r).Scan(t.Context(), logical.Key{}, LastKey) {
		if err != nil {
			t.Fatal(err)
		}
		b, err := testContent(nil, it.Key, it.Value)
		if err != nil {
			t.Fatal(err)
		}
		if i == len(keys) || it.Key != keys[i] || string(b) != m[it.Key] {
			t.Fatalf("item %d is %v", i, it.Key)
		}
		i++
	}
	if i != len(keys) {
		t.Fatalf("%d items instead of %d", i, len(keys))
	}
}

// describe prints a map, for failures.
func describe(c Config, r Root) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "height %d, %x\n", r.Height, r.Content[:4])
	err := Open(c, r).Walk(context.Background(), nil, func(n *Node) error {
		fmt.Fprintf(&b, "  level %d, %d items, from %v to %v: %x\n", n.Level, n.Count(), n.n.key(0), n.n.key(n.Count()-1), n.Content[:4])
		return nil
	})
	if err != nil {
		fmt.Fprintln(&b, err)
	}
	return b.String()
}

// slowNodes take a millisecond to answer.
type slowNodes struct {
	*fakeNodes
	enter, leave func()
}

func (s *slowNodes) Get(ctx context.Context, r *selfenc.PackedRef) ([]byte, error) {
	s.enter()
	defer s.leave()
	select {
	case <-time.After(time.Millisecond):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s.fakeNodes.Get(ctx, r)
}

// failNodes fail from some call on.
type failNodes struct {
	*fakeNodes
	after int
	err   error

	mu     sync.Mutex
	left   int  // guarded by mu
	failed bool // guarded by mu
	begun  bool // guarded by mu
}

func (f *failNodes) count() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.begun {
		f.begun, f.left = true, f.after
	}
	if f.left == 0 {
		f.failed = true
		return f.err
	}
	f.left--
	return nil
}

func (f *failNodes) Get(ctx context.Context, r *selfenc.PackedRef) ([]byte, error) {
	if err := f.count(); err != nil {
		return nil, err
	}
	return f.fakeNodes.Get(ctx, r)
}

func (f *failNodes) Put(ctx context.Context, plain []byte) (selfenc.PackedRef, error) {
	if err := f.count(); err != nil {
		return selfenc.PackedRef{}, err
	}
	return f.fakeNodes.Put(ctx, plain)
}

// canceling fails what began before a context was canceled.
type canceling struct {
	*fakeNodes
	ctx context.Context //nolint:containedctx // a test's
}

func (c canceling) Get(ctx context.Context, r *selfenc.PackedRef) ([]byte, error) {
	early := c.ctx.Err() == nil
	c.onGet()
	if early && c.ctx.Err() != nil {
		return nil, c.ctx.Err()
	}
	return c.fakeNodes.Get(ctx, r)
}
