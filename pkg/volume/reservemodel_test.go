package volume

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

var (
	reserveSeed  = flag.Uint64("reserve.seed", 0, "seed of the model of reserved ranges; 0: from the clock")
	reserveRuns  = flag.Int("reserve.runs", 6, "runs of the model of reserved ranges")
	reserveSteps = flag.Int("reserve.steps", 250, "steps of a run")
)

// The model of reserved ranges: on a volume that others keep full, whatever is written
// to a block that fallocate has promised finds room, whoever holds what was there:
// snapshots, copies, what was rolled back. What is promised in all is compared with
// the model's, and at each remount by fsck with the tree.

type reserveFile struct {
	data     []byte
	promised map[uint64]bool // blocks
}

type reserveState map[string]*reserveFile

func (s reserveState) clone() reserveState {
	c := reserveState{}
	for n, f := range s {
		c[n] = &reserveFile{slices.Clone(f.data), maps.Clone(f.promised)}
	}
	return c
}

type reserveModel struct {
	*reserved
	rng   *rand.Rand
	state reserveState
	snaps map[string]reserveState
	order []string // of snaps
	made  int
	trace []string
}

func TestReserveModel(t *testing.T) {
	seed := *reserveSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	for i := range fewer(*reserveRuns) {
		if t.Failed() {
			return
		}
		reserveRun(t, seed+uint64(i))
	}
}

func reserveRun(t *testing.T, seed uint64) {
	t.Logf("-reserve.seed=%d", seed)
	m := &reserveModel{reserved: newReserved(t, 72<<20), rng: rand.New(rand.NewPCG(seed, 3)), state: reserveState{}, snaps: map[string]reserveState{}}
	defer func() {
		if t.Failed() {
			for _, s := range m.trace[max(0, len(m.trace)-60):] {
				t.Log(s)
			}
		}
	}()
	for i := range 4 {
		m.file(fmt.Sprintf("f%d", i))
		m.state[fmt.Sprintf("f%d", i)] = &reserveFile{promised: map[uint64]bool{}}
	}
	for range *reserveSteps {
		m.step()
	}
	m.remount()
	ok(t, m.v.Close())
	checkClean(t, m.dev)
}

func (m *reserveModel) note(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf(format, args...))
}

func (m *reserveModel) pick() (string, *reserveFile, vfs.Ino) {
	m.t.Helper()
	names := slices.Sorted(maps.Keys(m.state))
	n := names[m.rng.IntN(len(names))]
	a, err := m.v.Lookup(vfs.RootIno, n)
	ok(m.t, err)
	return n, m.state[n], a.Ino
}

const reserveMax = 3 << 20 // bytes of a file

func (m *reserveModel) step() {
	switch k := m.rng.IntN(100); {
	case k < 12:
		m.fallocate()
	case k < 50:
		m.writeReserved()
	case k < 58:
		m.writeAny()
	case k < 63:
		m.punch()
	case k < 67:
		m.truncate()
	case k < 76:
		m.copy()
	case k < 82:
		m.snapshot()
	case k < 86:
		m.dropSnapshot()
	case k < 88:
		m.rollback()
	case k < 92:
		m.replace()
	case k < 94:
		m.remount()
	case k < 95:
		m.note("crash")
		ok(m.t, m.v.Sync(m.fill))
		m.crash()
		m.compare()
	default:
		m.fillUp()
	}
	m.v.background.reaper.wait() // after a crash it removes again what was removed
	n := 0
	for _, f := range m.state {
		n += len(f.promised)
	}
	if got := m.v.ranges.promised.Load(); got != int64(n) {
		m.t.Fatalf("%d blocks are promised, want %d", got, n)
	}
}

func (m *reserveModel) span() (off, n uint64) {
	off = m.rng.Uint64N(reserveMax)
	if m.rng.IntN(2) == 0 {
		off = off / pageBytes * pageBytes
	}
	n = 1 + m.rng.Uint64N([]uint64{5000, 100_000, 1 << 20}[m.rng.IntN(3)])
	return off, min(n, reserveMax-off)
}

func (m *reserveModel) fallocate() {
	name, f, ino := m.pick()
	off, n := m.span()
	mode := []uint32{0, vfs.FallocKeepSize, vfs.FallocZeroRange, vfs.FallocZeroRange | vfs.FallocKeepSize}[m.rng.IntN(4)]
	before := m.v.ranges.stored()
	err := m.v.Fallocate(crashReq, ino, mode, off, n)
	m.note("fallocate %d of %s (inode %d): %d+%d: %v", mode, name, ino, off, n, err)
	if errors.Is(err, vfs.ErrNoSpace) {
		if m.v.ranges.promised.Load() != int64(before.Promised) {
			m.t.Fatal("it failed, and something is reserved")
		}
		return
	}
	ok(m.t, err)
	for s := off / pageBytes; s*pageBytes < off+n; s++ {
		f.promised[s] = true
	}
	if mode&vfs.FallocKeepSize == 0 && uint64(len(f.data)) < off+n {
		f.data = append(f.data, make([]byte, off+n-uint64(len(f.data)))...)
	}
	if mode&vfs.FallocZeroRange != 0 && off < uint64(len(f.data)) {
		clear(f.data[off:min(off+n, uint64(len(f.data)))])
	}
}

func (m *reserveModel) put(f *reserveFile, ino vfs.Ino, off uint64, n uint64) error {
	b := bytes.Repeat([]byte{byte(m.rng.Uint32())}, int(n))
	if _, err := m.v.Write(crashReq, ino, off, b, false); err != nil {
		return err
	}
	if end := off + n; uint64(len(f.data)) < end {
		f.data = append(f.data, make([]byte, end-uint64(len(f.data)))...)
	}
	copy(f.data[off:], b)
	return nil
}

// writeReserved writes what was promised: all of a run of blocks, or a part.
func (m *reserveModel) writeReserved() {
	name, f, ino := m.pick()
	if len(f.promised) == 0 {
		return
	}
	all := slices.Sorted(maps.Keys(f.promised))
	from := all[m.rng.IntN(len(all))]
	to := from
	for limit := m.rng.Uint64N(300); f.promised[to] && to-from <= limit; to++ {
	}
	off, end := from*pageBytes, to*pageBytes
	if m.rng.IntN(3) == 0 {
		off += m.rng.Uint64N(pageBytes)
		end -= m.rng.Uint64N(pageBytes)
		end = max(end, off+1)
	}
	for off < end {
		n := min(end-off, 1+m.rng.Uint64N(400_000))
		m.note("write %s (inode %d), reserved: %d+%d", name, ino, off, n)
		if err := m.put(f, ino, off, n); err != nil {
			free, nodeSlots, waiting := m.v.space.Counts()
			m.t.Fatalf("a reserved write of %d bytes: %v; free %d, fours %d, waiting %d, reserve %d, %+v", n, err, free, nodeSlots, waiting, m.v.adm.reserveSlots, m.v.ranges.stored())
		}
		off += n
	}
	if m.rng.IntN(2) == 0 {
		ok(m.t, m.v.Sync(ino))
	}
}

func (m *reserveModel) writeAny() {
	name, f, ino := m.pick()
	off, n := m.span()
	err := m.put(f, ino, off, n)
	m.note("write %s (inode %d): %d+%d: %v", name, ino, off, n, err)
	if !errors.Is(err, vfs.ErrNoSpace) {
		ok(m.t, err)
	}
}

func (m *reserveModel) punch() {
	name, f, ino := m.pick()
	off, n := m.span()
	err := m.v.Fallocate(crashReq, ino, vfs.FallocPunchHole|vfs.FallocKeepSize, off, n)
	m.note("punch %s (inode %d): %d+%d: %v", name, ino, off, n, err)
	if errors.Is(err, vfs.ErrNoSpace) {
		return
	}
	ok(m.t, err)
	size, end := uint64(len(f.data)), off+n
	if off < size {
		clear(f.data[off:min(end, size)])
	}
	for s := range f.promised {
		whole := off <= s*pageBytes && (end >= (s+1)*pageBytes || end >= size && s*pageBytes < size)
		if whole && !(off/pageBytes == end/pageBytes && off%pageBytes != 0) {
			delete(f.promised, s)
		}
	}
}

func (m *reserveModel) truncate() {
	name, f, ino := m.pick()
	size := m.rng.Uint64N(reserveMax)
	if m.rng.IntN(3) == 0 {
		size = uint64(len(f.data))
	}
	_, err := m.v.SetAttr(crashReq, ino, &vfs.SetAttr{Size: &size})
	m.note("truncate %s (inode %d): %d of %d: %v", name, ino, size, len(f.data), err)
	if errors.Is(err, vfs.ErrNoSpace) && !(len(f.promised) > 0 && (size%pageBytes == 0 || f.promised[size/pageBytes])) {
		return
	}
	ok(m.t, err)
	if size <= uint64(len(f.data)) {
		maps.DeleteFunc(f.promised, func(s uint64, _ bool) bool { return s*pageBytes >= size })
		f.data = f.data[:size:size]
	} else {
		f.data = append(f.data, make([]byte, size-uint64(len(f.data)))...)
	}
}

func (m *reserveModel) copy() {
	a, f, from := m.pick()
	b, g, to := m.pick()
	off, n := m.span()
	at := off
	if m.rng.IntN(3) == 0 {
		at = m.rng.Uint64N(reserveMax-n+1) / pageBytes * pageBytes
	}
	if a == b || off >= uint64(len(f.data)) {
		return
	}
	done, err := m.v.CopyRange(crashReq, from, off, to, at, n)
	m.note("copy %s (inode %d) %d+%d to %s (inode %d) %d: %d, %v", a, from, off, n, b, to, at, done, err)
	if !errors.Is(err, vfs.ErrNoSpace) {
		ok(m.t, err)
	}
	if end := at + done; done > 0 && uint64(len(g.data)) < end {
		g.data = append(g.data, make([]byte, end-uint64(len(g.data)))...)
	}
	copy(g.data[min(at, uint64(len(g.data))):], f.data[off:off+done])
}

func (m *reserveModel) snapshot() {
	if len(m.order) == 3 {
		return
	}
	m.made++
	name := fmt.Sprintf("s%d", m.made)
	_, err := m.v.CreateSnapshot(name)
	m.note("snapshot %s: %v", name, err)
	if errors.Is(err, vfs.ErrNoSpace) {
		return
	}
	ok(m.t, err)
	m.snaps[name] = m.state.clone()
	m.order = append(m.order, name)
}

func (m *reserveModel) dropSnapshot() {
	if len(m.order) == 0 {
		return
	}
	i := m.rng.IntN(len(m.order))
	m.note("delete %s", m.order[i])
	ok(m.t, m.v.DeleteSnapshot(m.order[i]))
	delete(m.snaps, m.order[i])
	m.order = slices.Delete(m.order, i, i+1)
}

func (m *reserveModel) rollback() {
	if len(m.order) == 0 {
		return
	}
	i := m.rng.IntN(len(m.order))
	m.note("rollback to %s", m.order[i])
	ok(m.t, m.v.Rollback(m.order[i], true))
	m.state = m.snaps[m.order[i]].clone()
	m.order = m.order[:i+1]
	checkClean(m.t, m.dev)
	m.open()
	m.compare()
	a, err := m.v.Lookup(vfs.RootIno, "fill")
	ok(m.t, err)
	m.fill, m.end = a.Ino, a.Size
}

// replace removes a file for an empty one, or what fills the volume.
func (m *reserveModel) replace() {
	if len(m.state) == 1 || m.rng.IntN(2) == 0 {
		m.note("empty fill")
		size := uint64(0)
		_, err := m.v.SetAttr(crashReq, m.fill, &vfs.SetAttr{Size: &size})
		ok(m.t, err)
		m.end = 0
		return
	}
	name, f, ino := m.pick()
	m.note("replace %s (inode %d)", name, ino)
	m.remove(name)
	m.v.background.reaper.wait()
	if _, err := m.v.Mknod(crashReq, vfs.RootIno, name, 0o644, 0); errors.Is(err, vfs.ErrNoSpace) {
		delete(m.state, name)
		return
	} else {
		ok(m.t, err)
	}
	*f = reserveFile{promised: map[uint64]bool{}}
}

// fillUp takes what there is for data.
func (m *reserveModel) fillUp() {
	for n := uint64(1 << 20); n >= pageBytes; n /= 16 {
		for {
			_, err := m.v.Write(crashReq, m.fill, m.end, bytes.Repeat([]byte{7}, int(n)), false)
			if errors.Is(err, vfs.ErrNoSpace) {
				break
			}
			ok(m.t, err)
			m.end += n
		}
	}
	m.note("filled up to %d", m.end)
}

func (m *reserveModel) remount() {
	m.note("remount: %+v", m.v.ranges.stored())
	m.compare()
	m.reopen()
	m.compare()
}

func (m *reserveModel) compare() {
	m.t.Helper()
	for name, f := range m.state {
		a, err := m.v.Lookup(vfs.RootIno, name)
		ok(m.t, err)
		got := make([]byte, len(f.data)+10)
		n, err := m.v.Read(a.Ino, 0, got)
		ok(m.t, err)
		if !bytes.Equal(got[:n], f.data) {
			m.t.Fatalf("%s (inode %d) has another content: %d bytes, want %d", name, a.Ino, n, len(f.data))
		}
		if least := uint64(len(f.promised)) * 8; a.Blocks < least {
			m.t.Fatalf("%s (inode %d) has %d blocks, %d are reserved", name, a.Ino, a.Blocks, least)
		}
	}
}
