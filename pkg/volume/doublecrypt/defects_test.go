package doublecrypt

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Each test in this file checks that this implementation does not have a certain defect of the
// reference implementation.

// TestOlderRoot destroys the newest root after each of many commits. Then the volume must have the
// complete state of the previous commit (I1, I3, I4). The reference implementation overwrites
// blocks of that state, and does not check it.
func TestOlderRoot(t *testing.T) {
	seed := testSeed(t)
	for i := range rounds(4) {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		c, dev := testCore(t, 4096, 100)
		m, checked := model{}, 0
		for range 100 {
			before, generation := m.clone(), c.v.state.pointer.generation
			must(t, m.step(t, rng, c, 4096))
			must(t, c.Flush())
			if generation == 1 || c.v.state.pointer.generation != generation+1 {
				continue // there is no older root yet, or the number of commits was not one
			}
			checked++
			cut := dev.Clone()
			cut.Corrupt(int64(c.v.state.slot)*4096, func(b []byte) { clear(b) })
			older := NewCore(cut, c.key, CoreOptions{})
			must(t, older.Open())
			if got := contents(t, older); !got.equal(before) {
				t.Fatalf("the older root has %v\nwant %v", got, before)
			}
			must(t, older.Close())
			mustClean(t, cut, c.key)
		}
		if checked < 10 {
			t.Errorf("only %d commits", checked)
		}
	}
}

// TestFallback damages the superblock of the newer slot, while the slot itself decodes. Writing
// must continue from the older root, with a generation higher than both.
func TestFallback(t *testing.T) {
	c, dev := testCore(t, 4096, 64)
	must(t, c.CreateFile("a"))
	must(t, c.Flush())
	must(t, c.CreateFile("b"))
	must(t, c.Flush())
	newest := c.v.state
	must(t, c.Close())
	dev.Corrupt(int64(newest.pointer.superblock)*4096, func(b []byte) { b[30] ^= 1 })
	must(t, c.Open())
	if o := c.v.Opened(); o.Fallback == nil || o.Generation != newest.pointer.generation-1 {
		t.Errorf("%+v", o)
	}
	r, err := Check(dev, c.key, CheckOptions{})
	if err != nil || !r.Clean || len(r.Notes) < 2 {
		t.Errorf("%+v, %v", r, err)
	}
	must(t, c.CreateFile("c"))
	must(t, c.Close())
	must(t, c.Open())
	if o := c.v.Opened(); o.Fallback != nil || o.Generation != newest.pointer.generation+1 {
		t.Errorf("%+v", o)
	}
	if got := contents(t, c); len(got) != 2 || got["c"] == nil {
		t.Errorf("%v", got)
	}
	// A read error of the device must not cause writing from the older root.
	must(t, c.Close())
	bad := device.NewFault(dev, func(_ int, op device.Op, off int64, _ int) error {
		if op == device.OpRead && off/4096 >= firstObject {
			return errors.New("unreadable")
		}
		return nil
	})
	_, err = Open(bad, c.key, Options{})
	wantCode(t, err, CodeIO)
}

// TestFailedFlush checks that data stays readable after a failed flush, and that no later flush
// succeeds.
func TestFailedFlush(t *testing.T) {
	for _, op := range []device.Op{device.OpWrite, device.OpSync} {
		dev := device.NewMem(4096 * 64)
		fault := device.NewFault(dev, nil)
		c := newCore(t, fault, testKey(t), 4096, Options{})
		must(t, c.CreateFile("f"))
		must(t, c.WriteFile("f", 0, []byte("old")))
		must(t, c.Flush())
		data := bytes.Repeat([]byte("new"), 3000)
		must(t, c.WriteFile("f", 0, data))
		fault.SetHook(func(_ int, o device.Op, _ int64, _ int) error {
			if o == op {
				return errors.New("no")
			}
			return nil
		})
		wantCode(t, c.Sync(), CodeIO)
		fault.SetHook(nil) // the device works again, but it is unknown which writes it lost
		for range 3 {
			if c.Sync() == nil {
				t.Error("a later sync succeeds")
			}
		}
		if err := c.WriteFile("f", 0, []byte("x")); !errors.Is(err, vfs.ErrReadOnly) {
			t.Errorf("write: %v", err)
		}
		got := make([]byte, 10000)
		n, err := c.ReadFile("f", 0, got)
		if err != nil || !bytes.Equal(got[:n], data) {
			t.Errorf("read %d bytes, %v", n, err)
		}
		if c.Close() == nil {
			t.Error("close succeeds")
		}
		must(t, c.Open())
		if n, err := c.ReadFile("f", 0, got); err != nil || string(got[:n]) != "old" {
			t.Errorf("on the device: %d bytes, %v", n, err)
		}
		must(t, c.Close())
	}
}

// TestFullVolume fills volumes to the last block and deletes everything again.
func TestFullVolume(t *testing.T) {
	for _, blocks := range []int{minBlocks, 17, 18, 20, 40, 100} {
		c, dev := testCore(t, 4096, blocks)
		var names []string
		for i := 0; ; i++ {
			name := fmt.Sprint("f", i)
			err := c.CreateFile(name)
			if err == nil {
				names = append(names, name)
				err = c.WriteFile(name, 0, bytes.Repeat([]byte{1}, 3000))
			}
			if err != nil {
				wantCode(t, err, CodeNoSpace)
				break
			}
		}
		must(t, c.Flush()) // every accepted write must fit
		for _, name := range names {
			must(t, c.RemoveFile(name))
		}
		for range 3 * blocks { // and no blocks may leak
			must(t, c.CreateFile("again"))
			must(t, c.RemoveFile("again"))
			must(t, c.Flush())
		}
		if s, err := c.Statistics(); err != nil || s.FreeBlocks != uint64(blocks-firstObject-3) {
			t.Errorf("%d blocks: %+v, %v", blocks, s, err)
		}
		mustClean(t, dev, c.key)
	}
}

// TestPageLimit grows a directory byte by byte beyond the end of its block. The result must be an
// error. The reference implementation panics at the last four bytes.
func TestPageLimit(t *testing.T) {
	for _, block := range []int{512, 1024, 4096} {
		c, dev := testCore(t, block, 600)
		for i := 0; ; i++ {
			err := c.CreateFile(fmt.Sprintf("name%04d", i))
			if err != nil {
				wantCode(t, err, CodeNoSpace)
				break
			}
		}
		last := 0
		for n := 1; n < 60; n++ {
			name := strings.Repeat("x", n)
			if err := c.CreateFile(name); err != nil {
				wantCode(t, err, CodeNoSpace)
				continue
			}
			must(t, c.Flush())
			must(t, c.RemoveFile(name))
			last = n
		}
		must(t, c.Flush())
		t.Logf("%d: one more of up to %d bytes", block, last)
		// The page is full now. Changing its entries must either work or be refused.
		for i := range 5 {
			if err := c.WriteFile(fmt.Sprintf("name%04d", i), 0, []byte("data")); err != nil {
				wantCode(t, err, CodeNoSpace)
			}
		}
		must(t, c.RemoveFile("name0000"))
		must(t, c.Flush())
		mustClean(t, dev, c.key)
	}
	for b := 256; b < 70000; b++ { // the largest object is exactly one block
		n := maxPlain(b)
		used := frameBytes + 2 + 12 + varintLen(uint64(n+16)) + n + 16
		if used != b && used != b-1 {
			t.Fatalf("block %d: %d of plaintext take %d", b, n, used)
		}
	}
}

// TestFileLimits checks that a write that is too large fails immediately, uses no memory, and
// writes nothing.
func TestFileLimits(t *testing.T) {
	c, dev := testCore(t, 512, 2000)
	must(t, c.CreateFile("f"))
	for _, off := range []uint64{1 << 40, 1<<63 - 1, 1 << 63, 1<<64 - 2, 1<<64 - 1} {
		wantCode(t, c.WriteFile("f", off, []byte("ab")), CodeNoSpace)
	}
	if e, err := c.Stat("f"); err != nil || e.Size != 0 {
		t.Errorf("%+v, %v", e, err)
	}
	// Up to the last chunk of a map in one block.
	chunk := make([]byte, 312)
	n := uint64(0)
	for ; ; n++ {
		if err := c.WriteFile("f", n*312, chunk); err != nil {
			wantCode(t, err, CodeNoSpace)
			break
		}
	}
	must(t, c.Flush())
	if n < 80 || n > 120 {
		t.Errorf("%d chunks", n)
	}
	// A file of the maximum size can be changed and truncated.
	must(t, c.WriteFile("f", 5, []byte("changed")))
	must(t, c.Flush())
	must(t, c.Truncate("f", 312*(n-1)))
	must(t, c.Close())
	mustClean(t, dev, c.key)
	must(t, c.Open())
	if n, err := c.ReadFile("f", 1<<64-1, make([]byte, 10)); n != 0 || err != nil {
		t.Errorf("read at the end of all: %d, %v", n, err)
	}
}

// TestBigGap writes one byte at a large offset. A dense file uses blocks for the gap, but they are
// written once and use no memory.
func TestBigGap(t *testing.T) {
	c, dev := testCore(t, 4096, 600)
	must(t, c.CreateFile("f"))
	must(t, c.WriteFile("f", 1_000_000, []byte{1}))
	if c.v.dirtyBytes > 2*4096 {
		t.Errorf("%d bytes in memory", c.v.dirtyBytes)
	}
	must(t, c.Flush())
	mustClean(t, dev, c.key)
	// With holes, the gap uses no blocks.
	free := c.v.freeBlocks()
	must(t, c.Close())
	c.opts.Sparse = true
	must(t, c.Open())
	must(t, c.CreateFile("g"))
	must(t, c.WriteFile("g", 1_000_000, []byte{1}))
	must(t, c.Flush())
	if used := free - c.v.freeBlocks(); used > 3 {
		t.Errorf("takes %d blocks", used)
	}
	off, err := c.v.SeekData(3, 0)
	hole, herr := c.v.SeekHole(3, 0)
	if err != nil || off < 990_000 || herr != nil || hole != 0 {
		t.Errorf("data at %d, %v; hole at %d, %v", off, err, hole, herr)
	}
}

// TestCutDoesNotComeBack checks that truncated data is no longer stored, and does not reappear when
// the file grows again, even if the reference implementation lets it grow.
func TestCutDoesNotComeBack(t *testing.T) {
	c, dev := testCore(t, 4096, 64)
	must(t, c.CreateFile("f"))
	must(t, c.WriteFile("f", 0, bytes.Repeat([]byte("secret"), 600)))
	must(t, c.Flush())
	must(t, c.Truncate("f", 100))
	must(t, c.Flush())
	n := c.v.root.names["f"].node
	buf := c.v.blk.buffer(1)
	plain, err := c.v.blk.object(n.extents[0].block, c.key, kindChunk, buf)
	if err != nil || len(plain) != 100 || n.extents[0].bytes != 100 {
		t.Errorf("the chunk has %d bytes, %v", len(plain), err)
	}
	must(t, c.Truncate("f", 3000))
	got := make([]byte, 3000)
	if n, err := c.ReadFile("f", 0, got); n != 3000 || err != nil || !bytes.Equal(got[100:], make([]byte, 2900)) {
		t.Errorf("read %d, %v", n, err)
	}
	mustClean(t, dev, c.key)
}

// TestReformat checks that formatting removes the old file system, whatever its key and generation.
func TestReformat(t *testing.T) {
	dev := device.NewMem(4096 * 64)
	for i := range byte(4) {
		key := newKey(t, bytes.Repeat([]byte{i / 2}, 32))
		c := newCore(t, dev, key, 4096, Options{})
		if list, err := c.ListDirectory(""); err != nil || len(list) != 0 {
			t.Fatalf("%v, %v", list, err)
		}
		for n := range 5 + 3*(4-i) {
			must(t, c.CreateFile(fmt.Sprint(n)))
			must(t, c.Flush())
		}
		must(t, c.Close())
	}
	// After a power loss during formatting, there is the old volume, the new one, or none, but
	// never a mixture.
	key := testKey(t)
	for cut := 1; cut < 20; cut++ {
		old := device.NewMem(4096 * 64)
		c := newCore(t, old, key, 4096, Options{})
		must(t, c.CreateFile("old"))
		must(t, c.Close())
		old.CutAfter(cut)
		err := Format(old, key, 4096, 0, Options{})
		v, oerr := Open(old.Crash(device.CrashMix, rand.New(rand.NewPCG(1, uint64(cut)))), key, Options{})
		if err == nil && oerr != nil {
			t.Fatalf("cut %d: %v", cut, oerr)
		}
		if oerr == nil && len(v.root.order) != 0 && v.root.order[0].name != "old" {
			t.Fatalf("cut %d: %v", cut, v.root.order)
		}
	}
}

// TestDamagedTrees opens trees with cycles, shared blocks and references out of range.
func TestDamagedTrees(t *testing.T) {
	c, dev := testCore(t, 4096, 64)
	must(t, c.CreateDirectory("d"))
	must(t, c.CreateDirectory("d/e"))
	must(t, c.CreateFile("f"))
	must(t, c.WriteFile("f", 0, []byte("x")))
	must(t, c.Flush())
	v := c.v
	d, e, f := v.root.names["d"].node, v.root.names["d"].node.names["e"].node, v.root.names["f"].node
	put := func(dev *device.Mem, block uint64, k kind, plain []byte) {
		buf := v.blk.buffer(1)
		if _, err := sealObject(buf, c.key, k, make([]byte, 12), plain, len(plain)); err != nil {
			t.Fatal(err)
		}
		if err := (&blocks{dev, 4096, 64}).write(block, buf); err != nil {
			t.Fatal(err)
		}
	}
	must(t, c.Close())
	for name, change := range map[string]func(dev *device.Mem){
		"cycle": func(dev *device.Mem) {
			put(dev, e.body, kindDirectory, encodePage([]entry{{"up", d.block, uint64(d.ino), true}}))
		},
		"out of range": func(dev *device.Mem) {
			put(dev, e.body, kindDirectory, encodePage([]entry{{"x", 1 << 50, 77, false}}))
		},
		"shared inode": func(dev *device.Mem) {
			put(dev, e.body, kindDirectory, encodePage([]entry{{"x", f.block, 77, false}}))
		},
		"shared data": func(dev *device.Mem) {
			put(dev, f.body, kindExtents, encodeExtents([]extent{{0, d.body, 1}}))
		},
		"header block": func(dev *device.Mem) {
			put(dev, f.body, kindExtents, encodeExtents([]extent{{0, 0, 1}}))
		},
		"beyond the end": func(dev *device.Mem) {
			put(dev, f.body, kindExtents, encodeExtents([]extent{{0, 50, 1}, {1 << 60, 51, 1}}))
		},
		"double name": func(dev *device.Mem) {
			put(dev, e.body, kindDirectory, encodePage([]entry{{"x", 50, 77, false}, {"x", 51, 78, false}}))
		},
		"bad name": func(dev *device.Mem) {
			put(dev, e.body, kindDirectory, encodePage([]entry{{"a/b", 50, 77, false}}))
		},
		"huge size": func(dev *device.Mem) {
			i := f.record()
			i.size = 1 << 63
			put(dev, f.block, kindInode, i.encode())
		},
		"wrong id": func(dev *device.Mem) {
			i := f.record()
			i.id = 99
			put(dev, f.block, kindInode, i.encode())
		},
	} {
		t.Run(name, func(t *testing.T) {
			bad := dev.Clone()
			change(bad)
			if _, err := Open(bad, c.key, Options{}); !errors.Is(err, vfs.ErrCorrupt) {
				t.Errorf("opened for writing: %v", err)
			}
			r, err := Check(bad, c.key, CheckOptions{Data: true})
			if err != nil || r.Clean || r.Total == 0 {
				t.Errorf("check: %+v, %v", r, err)
			}
			v, err := Open(bad, c.key, Options{ReadOnly: true})
			if err != nil || v.Opened().DamageCount == 0 {
				t.Fatalf("open for reading: %v", err)
			}
			names := 0 // intact files can be read
			err = v.ReadDir(vfs.RootIno, 0, true, func(vfs.Dirent, *vfs.Attr) bool { names++; return true })
			if err != nil || names != 2 {
				t.Errorf("%d names, %v", names, err)
			}
		})
	}
}
