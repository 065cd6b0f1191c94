package doublecrypt

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "seed of the random tests; 0 means a seed from the time")
	roundsFlag = flag.Int("rounds", 0, "rounds of the random tests; 0 means few")
)

func testSeed(t testing.TB) uint64 {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", seed)
	return seed
}

func rounds(few int) int {
	if *roundsFlag > 0 {
		return *roundsFlag
	}
	if testing.Short() {
		return (few + 3) / 4
	}
	return few
}

// model is the expected content of a volume: contents by path, nil for a directory.
type model map[string][]byte

func (m model) clone() model { return maps.Clone(m) }

func (m model) children(dir string) int {
	n := 0
	for p := range m {
		if p != "" && parent(p) == dir {
			n++
		}
	}
	return n
}

func parent(p string) string { return strings.TrimPrefix(path.Dir("/"+p), "/") }

func (m model) pick(rng *rand.Rand, dirs bool) (string, bool) {
	var list []string
	for p, data := range m {
		if (data == nil) == dirs {
			list = append(list, p)
		}
	}
	if dirs {
		list = append(list, "")
	}
	if len(list) == 0 {
		return "", false
	}
	slices.Sort(list)
	return list[rng.IntN(len(list))], true
}

// contents reads the whole volume.
func contents(t testing.TB, c *Core) model {
	t.Helper()
	m := model{}
	var walk func(dir string)
	walk = func(dir string) {
		list, err := c.ListDirectory(dir)
		if err != nil {
			t.Fatalf("list: %v", err)
		}
		for _, e := range list {
			p := strings.TrimPrefix(dir+"/"+e.Name, "/")
			if e.Dir {
				m[p] = nil
				walk(p)
				continue
			}
			data := make([]byte, e.Size+1)
			n, err := c.ReadFile(p, 0, data)
			if err != nil || uint64(n) != e.Size {
				t.Fatalf("read %s: %d of %d, %v", p, n, e.Size, err)
			}
			m[p] = data[:n]
		}
	}
	walk("")
	return m
}

func (m model) equal(o model) bool {
	return maps.EqualFunc(m, o, func(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) })
}

func (m model) String() string {
	var lines []string
	for p, data := range m {
		lines = append(lines, fmt.Sprintf("%s:%d", p, len(data)))
	}
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

// step makes one random operation on the volume and the model. It returns only errors of the
// device. All other differences fail the test.
func (m model) step(t testing.TB, rng *rand.Rand, c *Core, block int) error {
	t.Helper()
	name := fmt.Sprintf("n%d", rng.IntN(12))
	dir, _ := m.pick(rng, true)
	p := strings.TrimPrefix(dir+"/"+name, "/")
	file, haveFile := m.pick(rng, false)
	r := operation{apply: func() {}}
	switch op := rng.IntN(20); {
	case op < 3:
		r = m.creates(p, c.CreateFile(p), []byte{})
	case op < 5 && strings.Count(p, "/") < 4:
		r = m.creates(p, c.CreateDirectory(p), nil)
	case op < 11 && haveFile:
		r = m.write(rng, c, file, block)
	case op < 13 && haveFile:
		r = m.truncate(rng, c, file, block)
	case op < 15:
		r = m.remove(c, p)
	case op < 17:
		r = m.rename(rng, c, p)
	case op < 18 && haveFile:
		r.err = m.read(t, rng, c, file, block)
	case op < 19:
		r.err = c.ScrubFreeBlocks()
	}
	if CodeOf(r.err) == CodeIO || errors.Is(r.err, device.ErrCrashed) {
		return r.err
	}
	if code := CodeOf(r.err); code == CodeNoSpace && r.want == CodeOK {
		return nil // changes nothing
	} else if code != r.want {
		t.Fatalf("%s: %v, want code %d; model %v", p, r.err, r.want, m)
	}
	if r.err == nil {
		r.apply()
	}
	return nil
}

// operation is the result of an operation, the expected result, and the change of the model.
type operation struct {
	err   error
	want  Code
	apply func()
}

func (m model) creates(p string, err error, content []byte) operation {
	r := operation{err: err, apply: func() { m[p] = content }}
	if _, exists := m[p]; exists {
		r.want = CodeAlreadyExists
	}
	return r
}

func (m model) write(rng *rand.Rand, c *Core, file string, block int) operation {
	data := make([]byte, 1+rng.IntN(2*block))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	off := rng.IntN(len(m[file]) + block)
	return operation{err: c.WriteFile(file, uint64(off), data), apply: func() {
		grown := append([]byte{}, m[file]...)
		if need := off + len(data); need > len(grown) {
			grown = append(grown, make([]byte, need-len(grown))...)
		}
		copy(grown[off:], data)
		m[file] = grown
	}}
}

func (m model) truncate(rng *rand.Rand, c *Core, file string, block int) operation {
	size := rng.IntN(len(m[file]) + block)
	return operation{err: c.Truncate(file, uint64(size)), apply: func() {
		cut := append([]byte{}, m[file][:min(size, len(m[file]))]...)
		m[file] = append(cut, make([]byte, size-len(cut))...)
	}}
}

func (m model) remove(c *Core, p string) operation {
	r := operation{err: c.RemoveFile(p), apply: func() { delete(m, p) }}
	switch old, exists := m[p]; {
	case !exists:
		r.want = CodeNotFound
	case old == nil && m.children(p) > 0:
		r.want = CodeDirectoryNotEmpty
	}
	return r
}

// rename moves an entry with everything below it to p.
func (m model) rename(rng *rand.Rand, c *Core, p string) operation {
	all := slices.Sorted(maps.Keys(m))
	if len(all) == 0 {
		return operation{apply: func() {}}
	}
	from := all[rng.IntN(len(all))]
	r := operation{err: c.Rename(from, p), apply: func() {
		for q, data := range m.clone() {
			if q == from || strings.HasPrefix(q, from+"/") {
				delete(m, q)
				m[p+q[len(from):]] = data
			}
		}
	}}
	_, exists := m[p]
	switch {
	case strings.HasPrefix(p, from+"/"):
		r.want = CodeInternal
	case exists:
		r.want = CodeAlreadyExists
	}
	return r
}

func (m model) read(t testing.TB, rng *rand.Rand, c *Core, file string, block int) error {
	t.Helper()
	off := rng.IntN(len(m[file]) + 10)
	got := make([]byte, rng.IntN(3*block))
	n, err := c.ReadFile(file, uint64(off), got)
	if want := m[file][min(off, len(m[file])):]; err == nil && !bytes.Equal(got[:n], want[:min(len(want), len(got))]) {
		t.Fatalf("read %s at %d: %d bytes differ", file, off, n)
	}
	return err
}

var modelSizes = []struct{ block, blocks int }{{512, 200}, {1000, 150}, {4096, 120}, {4096, 60}}

func newCore(t testing.TB, dev device.Device, key *crypto.DoublecryptKey, block int, o Options) *Core {
	t.Helper()
	c := NewCore(dev, key, CoreOptions{BlockBytes: block, Volume: o})
	if err := c.InitFilesystem(); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestModel compares a volume with a map, over random operations. The volumes are so small that
// they are often full.
func TestModel(t *testing.T) {
	seed := testSeed(t)
	for i, s := range modelSizes {
		for _, sparse := range []bool{false, true} {
			t.Run(fmt.Sprintf("%dx%d-sparse=%t", s.block, s.blocks, sparse), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, uint64(i)))
				dev := memDevice(t, make([]byte, s.block*s.blocks))
				key := testKey(t)
				c := newCore(t, dev, key, s.block, Options{Sparse: sparse, Memory: 16 * s.block})
				m := model{}
				for n := range rounds(40) * 25 {
					if err := m.step(t, rng, c, s.block); err != nil {
						t.Fatal(err)
					}
					if rng.IntN(30) == 0 {
						if err := c.Flush(); err != nil {
							t.Fatal(err)
						}
					}
					if n%100 != 99 {
						continue
					}
					if got := contents(t, c); !got.equal(m) {
						t.Fatalf("holds %v\nwant  %v", got, m)
					}
					if err := c.Close(); err != nil {
						t.Fatal(err)
					}
					mustClean(t, dev, key)
					if err := c.Open(); err != nil {
						t.Fatal(err)
					}
					if got := contents(t, c); !got.equal(m) {
						t.Fatalf("reopened, holds %v\nwant  %v", got, m)
					}
					checkAccounts(t, c.v)
				}
				for p, data := range m { // a volume can be emptied, however full it is
					if data != nil {
						if err := c.RemoveFile(p); err != nil {
							t.Fatalf("remove %s: %v", p, err)
						}
					}
				}
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
				mustClean(t, dev, key)
			})
		}
	}
}

// checkAccounts compares the counters with the actual numbers.
func checkAccounts(t testing.TB, v *Volume) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	need := uint64(0)
	for _, n := range v.nodes {
		need += n.cost()
		if !n.dir {
			continue
		}
		bytes, subdirs := 0, uint32(0)
		for _, e := range n.order {
			bytes += v.entryBytes(e.name, e.node)
			if e.node.dir {
				subdirs++
			}
		}
		if bytes != n.bytes || subdirs != n.subdirs {
			t.Errorf("inode %d: %d bytes of entries, counted %d", n.ino, bytes, n.bytes)
		}
	}
	if need != v.need {
		t.Errorf("needs %d, counted %d", need, v.need)
	}
	depths := []int{}
	subtree(v.root, func(d int) {
		for len(depths) <= d {
			depths = append(depths, 0)
		}
		depths[d]++
	})
	if !slices.Equal(depths, v.depths) {
		t.Errorf("depths %v, counted %v", depths, v.depths)
	}
}

// TestCrash loses power at random writes. Afterwards, the volume must have the state after some
// operation since the last successful flush, and it must be usable.
func TestCrash(t *testing.T) {
	seed := testSeed(t)
	for i := range rounds(120) {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		s := modelSizes[rng.IntN(len(modelSizes))]
		dev := memDevice(t, make([]byte, s.block*s.blocks))
		key := testKey(t)
		o := Options{Sparse: rng.IntN(2) == 0, Memory: (4 + rng.IntN(20)) * s.block}
		c := newCore(t, dev, key, s.block, o)
		m := model{}
		for range 3 {
			dev = crashOnce(t, rng, dev, key, c, m, s.block)
			c = NewCore(dev, key, CoreOptions{Volume: o})
			if err := c.Open(); err != nil {
				t.Fatalf("round %d: %v", i, err)
			}
			mustClean(t, dev, key)
			m = contents(t, c)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func crashOnce(t *testing.T, rng *rand.Rand, dev *device.Mem, key *crypto.DoublecryptKey, c *Core, m model, block int) *device.Mem {
	t.Helper()
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	possible := []model{m.clone()}
	dev.CutAfter(1 + rng.IntN(60))
	for {
		err := m.step(t, rng, c, block)
		possible = append(possible, m.clone())
		if err == nil && rng.IntN(10) == 0 {
			if err = c.Flush(); err == nil {
				possible = []model{m.clone()}
			}
		}
		if err != nil {
			break
		}
	}
	after := dev.Crash(device.CrashMode(rng.IntN(3)), rng)
	found := NewCore(after, key, CoreOptions{})
	if err := found.Open(); err != nil {
		t.Fatalf("after the cut: %v", err)
	}
	got := contents(t, found)
	if err := found.Close(); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(possible, got.equal) {
		t.Fatalf("after the cut it holds %v\nflushed was %v\nlast was %v", got, possible[0], possible[len(possible)-1])
	}
	return after
}

// TestCrashEveryWrite loses power at every single write and flush of a sequence of operations, in
// all three modes.
func TestCrashEveryWrite(t *testing.T) {
	crashEveryWrite(t, testSeed(t))
	// A full volume without blocks to release used the slot of its only root for the next one.
	crashEveryWrite(t, 1796037139787001448)
}

func crashEveryWrite(t *testing.T, seed uint64) {
	t.Helper()
	const block = 1000 // root pointers cross a boundary of 512 bytes, where writes can tear
	for cut := 1; ; cut++ {
		rng := rand.New(rand.NewPCG(seed, 0))
		dev := memDevice(t, make([]byte, block*100))
		key := testKey(t)
		c := newCore(t, dev, key, block, Options{})
		dev.CutAfter(cut)
		m := model{}
		possible := []model{{}}
		var err error
		for n := 0; n < 60 && err == nil; n++ {
			err = m.step(t, rng, c, block)
			possible = append(possible, m.clone())
			if err == nil && n%6 == 5 {
				if err = c.Flush(); err == nil {
					possible = []model{m.clone()}
				}
			}
		}
		for _, mode := range []device.CrashMode{device.CrashLoseAll, device.CrashKeepAll, device.CrashMix} {
			after := dev.Crash(mode, rng)
			found := NewCore(after, key, CoreOptions{})
			if err := found.Open(); err != nil {
				t.Fatalf("cut %d: %v", cut, err)
			}
			if got := contents(t, found); !slices.ContainsFunc(possible, got.equal) {
				t.Fatalf("cut %d, mode %d: it holds %v\nflushed was %v", cut, mode, got, possible[0])
			}
			mustClean(t, after, key)
		}
		if err == nil {
			if cut < 20 {
				t.Fatalf("only %d writes", cut)
			}
			return
		}
	}
}
