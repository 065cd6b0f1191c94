package volume

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/vfstest"
)

// dataBlocks are the blocks that extents of the head refer to, each with the
// number of references. Everything must have been flushed.
func dataBlocks(t testing.TB, v *Volume) map[uint64]int {
	t.Helper()
	refs := map[uint64]int{}
	err := v.fs.Scan(layout.Key{Obj: 1}, layout.Key{Obj: ^uint64(0)}, func(k layout.Key, val []byte) bool {
		if k.Type != layout.KeyExtent {
			return true
		}
		e, err := layout.DecodeFileExtent(val)
		if err != nil {
			t.Error(err)
			return false
		}
		for i := range e.Blocks() {
			refs[e.Addr/layout.BlockBytes+i]++
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return refs
}

// reflinkModel keeps beside a volume who refers to which block: a block of a
// file has a number, which changes when it is written and goes along when it is
// shared. The volume's data takes as many blocks as there are numbers.
type reflinkModel struct {
	t     *testing.T
	rng   *rand.Rand
	dev   *device.Mem
	v     *Volume
	want  *vfstest.MemFS
	files []*reflinkFile
	last  uint64 // number
	made  int
	trace []string
}

type reflinkFile struct {
	name   string
	got    vfs.Ino
	mem    vfs.Ino
	size   uint64
	blocks map[uint64]uint64
}

func (m *reflinkModel) note(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf(format, args...))
}

func (m *reflinkModel) fatal(args ...any) {
	m.t.Helper()
	if n := len(m.trace); n > 40 {
		m.trace = m.trace[n-40:]
	}
	for _, s := range m.trace {
		m.t.Log(s)
	}
	m.t.Fatal(args...)
}

func (m *reflinkModel) ok(err error) {
	m.t.Helper()
	if err != nil {
		m.fatal(err)
	}
}

// touch gives the blocks of [off, end) bytes new numbers.
func (m *reflinkModel) touch(f *reflinkFile, off, end uint64) {
	for s := off / pageBytes; s*pageBytes < end; s++ {
		m.last++
		f.blocks[s] = m.last
	}
}

func (m *reflinkModel) pick() *reflinkFile { return m.files[m.rng.IntN(len(m.files))] }

func (m *reflinkModel) create() {
	m.made++
	f := &reflinkFile{name: fmt.Sprintf("f%d", m.made), blocks: map[uint64]uint64{}}
	a, err := m.v.Mknod(crashReq, vfs.RootIno, f.name, items.ModeReg|0o644, 0)
	m.ok(err)
	b, err := m.want.Mknod(crashReq, vfs.RootIno, f.name, items.ModeReg|0o644, 0)
	m.ok(err)
	f.got, f.mem = a.Ino, b.Ino
	m.files = append(m.files, f)
	m.write(f, 0, 10_000+m.rng.Uint64N(300_000)) // never small enough for the tree
}

func (m *reflinkModel) write(f *reflinkFile, off, n uint64) {
	m.note("write %s (inode %d) %d+%d", f.name, f.got, off, n)
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(m.rng.Uint32())
	}
	_, err := m.v.Write(crashReq, f.got, off, data, false)
	m.ok(err)
	_, err = m.want.Write(crashReq, f.mem, off, data, false)
	m.ok(err)
	m.touch(f, off, off+n)
	f.size = max(f.size, off+n)
}

func (m *reflinkModel) truncate(f *reflinkFile, size uint64) {
	m.note("truncate %s %d", f.name, size)
	_, err := m.v.SetAttr(crashReq, f.got, &vfs.SetAttr{Size: &size})
	m.ok(err)
	_, err = m.want.SetAttr(crashReq, f.mem, &vfs.SetAttr{Size: &size})
	m.ok(err)
	if size < f.size {
		maps.DeleteFunc(f.blocks, func(s, _ uint64) bool { return s*pageBytes >= size })
		if size%pageBytes != 0 { // what the new end cuts in two is written anew, a hole as well
			m.touch(f, size, size+1)
		}
	}
	f.size = size
}

func (m *reflinkModel) punch(f *reflinkFile, off, n uint64) {
	m.note("punch %s %d+%d", f.name, off, n)
	const mode = vfs.FallocPunchHole | vfs.FallocKeepSize
	m.ok(m.v.Fallocate(crashReq, f.got, mode, off, n))
	m.ok(m.want.Fallocate(crashReq, f.mem, mode, off, n))
	end := off + n
	for s := off / pageBytes; s*pageBytes < min(end, f.size); s++ {
		whole := off <= s*pageBytes && (end >= (s+1)*pageBytes || end >= f.size)
		if whole {
			delete(f.blocks, s)
		} else {
			m.touch(f, s*pageBytes, s*pageBytes+1)
		}
	}
}

func (m *reflinkModel) copy(a, b *reflinkFile, from, to, n uint64) {
	m.note("copy %s (%d bytes) %d+%d to %s (%d bytes) %d", a.name, a.size, from, n, b.name, b.size, to)
	got, err := m.v.CopyRange(crashReq, a.got, from, b.got, to, n)
	want, werr := m.want.CopyRange(crashReq, a.mem, from, b.mem, to, n)
	if got != want || (err == nil) != (werr == nil) || err != nil && !errors.Is(err, vfs.ErrInvalid) {
		m.fatal("copy:", got, err, "want", want, werr)
	}
	if err != nil || from >= a.size {
		return
	}
	n = min(n, a.size-from)
	end := to + n
	if from%pageBytes != to%pageBytes {
		m.touch(b, to, end)
		b.size = max(b.size, end)
		return
	}
	if head := min(n, -from%pageBytes); head > 0 {
		m.touch(b, to, to+head)
		b.size = max(b.size, to+head)
		if from, to, n = from+head, to+head, n-head; n == 0 {
			return
		}
	}
	tail := n % pageBytes
	if from+n == a.size && end >= b.size {
		tail = 0
	}
	for s := from / pageBytes; s*pageBytes < from+n-tail; s++ {
		d := to/pageBytes + s - from/pageBytes
		if id, ok := a.blocks[s]; ok {
			b.blocks[d] = id
		} else {
			delete(b.blocks, d)
		}
	}
	if tail > 0 {
		m.touch(b, end-tail, end)
	}
	b.size = max(b.size, end)
}

func (m *reflinkModel) unlink(i int) {
	f := m.files[i]
	m.note("unlink %s", f.name)
	m.ok(m.v.Unlink(crashReq, vfs.RootIno, f.name))
	m.ok(m.want.Unlink(crashReq, vfs.RootIno, f.name))
	m.v.Forget(f.got)
	m.want.Forget(f.mem)
	m.files = slices.Delete(m.files, i, i+1)
}

// off chooses an offset, more often than not of a block.
func (m *reflinkModel) off(limit uint64) uint64 {
	n := m.rng.Uint64N(limit + 1)
	if m.rng.IntN(4) > 0 {
		n -= n % pageBytes
	}
	return n
}

func (m *reflinkModel) step() {
	if len(m.files) < 2 {
		m.create()
		return
	}
	f := m.pick()
	switch k := m.rng.IntN(100); {
	case k < 8 && len(m.files) < 12:
		m.create()
	case k < 30:
		m.write(f, m.off(f.size), 1+m.rng.Uint64N(40_000))
	case k < 37:
		m.truncate(f, max(4096, m.off(f.size+20_000)))
	case k < 47:
		m.punch(f, m.off(f.size), 1+m.off(60_000))
	case k < 80: // anything to anywhere, the same file too
		g := m.pick()
		from := m.off(f.size)
		to := m.off(g.size)
		if m.rng.IntN(3) > 0 {
			to = to - to%pageBytes + from%pageBytes
		}
		m.copy(f, g, from, to, 1+m.off(200_000))
	case k < 86: // a whole file
		m.copy(f, m.pick(), 0, 0, 1<<40)
	case k < 90:
		m.unlink(m.rng.IntN(len(m.files)))
	case k < 95:
		m.note("sync")
		m.ok(m.v.Sync(f.got))
	default:
		m.note("commit")
		m.ok(m.v.Sync(vfs.RootIno))
	}
}

// verify compares contents and, to the block, what they take.
func (m *reflinkModel) verify() {
	m.t.Helper()
	m.ok(m.v.Sync(vfs.RootIno))
	m.v.background.reaper.wait()
	m.ok(m.v.Sync(vfs.RootIno))
	want := map[uint64]int{}
	for _, f := range m.files {
		a, b := make([]byte, f.size+10), make([]byte, f.size+10)
		n, err := m.v.Read(f.got, 0, a)
		m.ok(err)
		k, err := m.want.Read(f.mem, 0, b)
		m.ok(err)
		if n != k || uint64(n) != f.size || !bytes.Equal(a[:n], b[:k]) {
			m.fatal(f.name, "content differs:", n, k, f.size)
		}
		attr, err := m.v.GetAttr(f.got)
		m.ok(err)
		if attr.Blocks != 8*uint64(len(f.blocks)) {
			m.fatal(f.name, "blocks", attr.Blocks, "want", 8*len(f.blocks))
		}
		for _, id := range f.blocks {
			want[id]++
		}
	}
	refs := dataBlocks(m.t, m.v)
	if len(refs) != len(want) {
		m.fatal("data takes", len(refs), "blocks, the model", len(want))
	}
	// As many blocks of each number of references.
	count := func(refs map[uint64]int) map[int]int {
		by := map[int]int{}
		for _, n := range refs {
			by[n]++
		}
		return by
	}
	if got, want := count(refs), count(want); !maps.Equal(got, want) {
		m.fatal("blocks by references:", got, "want", want)
	}
}

// remount closes and opens; or opens a device whose power went after a sync, so
// that the log is applied, first read-only.
func (m *reflinkModel) remount() {
	m.t.Helper()
	if m.rng.IntN(3) == 0 {
		m.note("remount")
		m.ok(m.v.Close())
	} else {
		m.note("power cut")
		m.v.background.reaper.wait()
		m.ok(m.v.Sync(m.pick().got))
		img := m.dev.Clone()
		m.v.fail(device.ErrCrashed)
		if m.v.Close() == nil {
			m.fatal("close of a failed volume")
		}
		m.dev = img
		ro := mustOpen(m.t, img, Options{ReadOnly: true})
		for _, f := range m.files {
			a, b := make([]byte, f.size+1), make([]byte, f.size+1)
			n, err := ro.Read(f.got, 0, a)
			m.ok(err)
			_, err = m.want.Read(f.mem, 0, b)
			m.ok(err)
			if uint64(n) != f.size || !bytes.Equal(a, b) {
				m.fatal(f.name, "differs read-only")
			}
		}
		m.ok(ro.Close())
	}
	m.v = mustOpen(m.t, m.dev, Options{CommitInterval: -1, Memory: minMemory})
	if m.v.rot.target.Load() != 0 {
		return // it is being changed
	}
	m.verify()
	checkClean(m.t, m.dev.Clone())
}

// rotate gives the volume a new data key, with power cuts or remounts in between. What was shared stays so.
func (m *reflinkModel) rotate() {
	m.t.Helper()
	m.note("rotate")
	look := []int{200, 1000, 1 << 16}[m.rng.IntN(3)] // more than one extent has references
	m.v.rot.look = look
	release := blockRotation(m.v)
	before := m.v.rotationTarget()
	_, err := m.v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(m.t).Credential}, BytesPerSecond: -1})
	m.ok(err)
	if m.rng.IntN(2) == 0 {
		m.remount() // the new mount goes on with it
		m.v.rot.look = look
	}
	release()
	s, err := m.v.WaitRotation(m.t.Context(), nil)
	m.ok(err)
	if s.Phase != RotationNone || len(s.Epochs) != 1 || s.Epochs[0] != before+1 {
		m.fatal(fmt.Sprintf("%+v", s))
	}
	m.verify()
	checkClean(m.t, m.dev.Clone())
}

// rotationTarget is the newest epoch.
func (v *Volume) rotationTarget() uint32 { return v.store.Keys.Newest().Epoch() }

// TestReflinkModel makes random sequences and counts blocks.
func TestReflinkModel(t *testing.T) {
	steps := 2500
	if testing.Short() {
		steps = 500
	}
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			dev := device.NewMem(160 << 20)
			mustFormat(t, dev)
			m := &reflinkModel{t: t, rng: rand.New(rand.NewPCG(seed, 31)), dev: dev, want: vfstest.NewMemFS()}
			m.v = mustOpen(t, dev, Options{CommitInterval: -1, Memory: minMemory})
			before := m.v.StatFS()
			for i := range steps {
				m.step()
				if i%50 == 49 {
					m.verify()
				}
				if i%100 == 75 { // with something in the log
					m.remount()
				}
				if i%400 == 299 {
					m.rotate()
				}
			}
			for len(m.files) > 0 {
				m.unlink(len(m.files) - 1)
			}
			m.verify()
			for range 3 { // what was freed comes back two commits later
				m.ok(m.v.com.since(m.v.com.commits.Load()))
			}
			if h := m.v.shares.Height(); h != 0 {
				t.Errorf("the reference-count tree has height %d, and there is no file", h)
			}
			if after := m.v.StatFS(); after.BlocksFree+64 < before.BlocksFree {
				t.Errorf("%d blocks are free, %d at first", after.BlocksFree, before.BlocksFree)
			}
			m.ok(m.v.Close())
			checkClean(t, m.dev)
		})
	}
}
