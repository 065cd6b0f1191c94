package device

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"sync"
)

// ErrCrashed is the error of all calls after a Mem has lost power.
var ErrCrashed = errors.New("device lost power")

// Mem is a sparse device in memory that can lose power. It remembers every write since the last
// Sync. Crash creates an image in which each of these writes is kept, lost or torn at 512 bytes, in
// any order.
type Mem struct {
	mu      sync.Mutex
	size    int64
	durable map[int64]*[SectorBytes]byte // as of the last Sync
	pending []memWrite                   // since then, in order
	current map[int64]*[SectorBytes]byte // durable and pending
	writes  int                          // WriteAt, Discard and Sync calls so far
	cutAt   int                          // power is lost after this many calls; 0 means never
	dead    bool

	discards int
}

// memWrite is a written sector, or a discard of several.
type memWrite struct {
	sector  int64
	data    [SectorBytes]byte
	discard int64 // number of sectors; 0 for a write
}

// apply applies a write to m.
func (w *memWrite) apply(m map[int64]*[SectorBytes]byte) {
	if w.discard > 0 {
		w.eachStored(m, func(s int64) { delete(m, s) })
		return
	}
	p := new([SectorBytes]byte)
	*p = w.data
	m[w.sector] = p
}

// eachStored calls fn for each sector of a discard that m contains, in order.
func (w *memWrite) eachStored(m map[int64]*[SectorBytes]byte, fn func(s int64)) {
	for s := w.sector; s < w.sector+w.discard; s++ {
		if m[s] != nil {
			fn(s)
		}
	}
}

// tear applies a write to m as a power failure may leave it.
func (w *memWrite) tear(m map[int64]*[SectorBytes]byte, rng *rand.Rand) {
	one := func(s int64, data *[SectorBytes]byte) {
		p := new([SectorBytes]byte)
		if old := m[s]; old != nil {
			*p = *old
		}
		switch rng.IntN(4) {
		case 0, 1:
			*p = *data
		case 2:
			return
		case 3:
			for o := 0; o < SectorBytes; o += 512 {
				if rng.IntN(2) == 0 {
					copy(p[o:o+512], data[o:])
				}
			}
		}
		m[s] = p
	}
	if w.discard == 0 {
		one(w.sector, &w.data)
		return
	}
	w.eachStored(m, func(s int64) { one(s, new([SectorBytes]byte)) })
}

// NewMem returns a device of zeros.
func NewMem(sizeBytes int64) *Mem {
	return &Mem{size: sizeBytes, durable: map[int64]*[SectorBytes]byte{}, current: map[int64]*[SectorBytes]byte{}}
}

// CutAfter makes the device lose power after n more calls of WriteAt and Sync. The n-th call still
// takes effect, without a flush. All later calls fail with ErrCrashed.
func (m *Mem) CutAfter(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cutAt = m.writes + n
}

// Writes returns the number of WriteAt and Sync calls so far.
func (m *Mem) Writes() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writes
}

// ReadAt reads the data that was written last.
func (m *Mem) ReadAt(b []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return 0, ErrCrashed
	}
	n := len(b)
	if off >= m.size {
		return 0, io.EOF
	}
	if off+int64(n) > m.size {
		n = int(m.size - off)
	}
	for done := 0; done < n; {
		at := off + int64(done)
		in := int(at % SectorBytes)
		c := min(SectorBytes-in, n-done)
		if p := m.current[at/SectorBytes]; p != nil {
			copy(b[done:done+c], p[in:])
		} else {
			clear(b[done : done+c])
		}
		done += c
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// NextData implements Allocated.
func (m *Mem) NextData(off int64) (from, to int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return 0, 0, ErrCrashed
	}
	from = int64(math.MaxInt64)
	for s := range m.current {
		if end := (s + 1) * SectorBytes; end > off {
			from = min(from, max(off, s*SectorBytes))
		}
	}
	if from >= m.size {
		return 0, 0, io.EOF
	}
	for to = from; to < m.size && m.current[to/SectorBytes] != nil; {
		to = (to/SectorBytes + 1) * SectorBytes
	}
	return from, to, nil
}

// WriteAt writes whole sectors.
func (m *Mem) WriteAt(b []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return 0, ErrCrashed
	}
	if !whole(off, int64(len(b)), m.size) {
		return 0, fmt.Errorf("write %d bytes at %d: %w", len(b), off, ErrRange)
	}
	for i := 0; i < len(b); i += SectorBytes {
		w := memWrite{sector: (off + int64(i)) / SectorBytes}
		copy(w.data[:], b[i:])
		m.pending = append(m.pending, w)
		p := new([SectorBytes]byte)
		*p = w.data
		m.current[w.sector] = p
	}
	m.count()
	return len(b), nil
}

// count counts a call, and notes whether it was the last one before the power loss.
func (m *Mem) count() {
	m.writes++
	if m.cutAt != 0 && m.writes >= m.cutAt {
		m.dead = true
	}
}

// Sync makes all writes durable.
func (m *Mem) Sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return ErrCrashed
	}
	m.count()
	if m.dead {
		return ErrCrashed // power loss during the flush: all writes are still pending
	}
	for i := range m.pending {
		m.pending[i].apply(m.durable)
	}
	m.pending = m.pending[:0]
	return nil
}

// Discard drops the content of a range. Reads immediately return zeros. On the device, it takes
// effect at any time until the next Sync, possibly in parts, and possibly before earlier writes.
func (m *Mem) Discard(off, length int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return ErrCrashed
	}
	if length == 0 || !whole(off, length, m.size) {
		return fmt.Errorf("discard %d bytes at %d: %w", length, off, ErrRange)
	}
	w := memWrite{sector: off / SectorBytes, discard: length / SectorBytes}
	w.apply(m.current)
	m.pending = append(m.pending, w)
	m.discards++
	m.count()
	return nil
}

// Discards returns the number of Discard calls so far.
func (m *Mem) Discards() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.discards
}

// Size returns the size in bytes.
func (m *Mem) Size() (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.size, nil
}

// Grow enlarges the device.
func (m *Mem) Grow(sizeBytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.size = max(m.size, sizeBytes)
}

// Close does nothing. The content remains, so that the device can be opened again.
func (m *Mem) Close() error { return nil }

// Cut makes the device lose power now.
func (m *Mem) Cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = true
}

// CrashMode determines the fate of unflushed writes.
type CrashMode int

// The modes of Crash.
const (
	CrashLoseAll CrashMode = iota
	CrashKeepAll
	CrashMix      // each kept, lost or torn at 512 bytes, in any order
	CrashDiscards // all writes lost, all discards done
)

// Crash returns a new device with one possible content after the power loss.
func (m *Mem) Crash(mode CrashMode, rng *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := NewMem(m.size)
	for s, p := range m.durable {
		n.durable[s] = p // contents are never changed in place
	}
	order := make([]int, len(m.pending))
	for i := range order {
		order[i] = i
	}
	if mode == CrashMix {
		// A drive may write two versions of a sector in either order only if there is no flush
		// between them. That is the case for all pending writes.
		rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	}
	if mode != CrashLoseAll {
		for _, i := range order {
			switch w := &m.pending[i]; {
			case mode == CrashMix:
				w.tear(n.durable, rng)
			case mode == CrashKeepAll || w.discard > 0:
				w.apply(n.durable)
			}
		}
	}
	for s, p := range n.durable {
		n.current[s] = p
	}
	return n
}

// Clone returns a copy of the present content.
func (m *Mem) Clone() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := NewMem(m.size)
	for s, p := range m.current {
		n.durable[s], n.current[s] = p, p
	}
	return n
}

// UsedBytes returns the memory that written sectors use.
func (m *Mem) UsedBytes() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(len(m.current)) * SectorBytes
}

// Corrupt changes stored bytes without the knowledge of the device's user.
func (m *Mem) Corrupt(off int64, change func(sector []byte)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := new([SectorBytes]byte)
	if old := m.current[off/SectorBytes]; old != nil {
		*p = *old
	}
	change(p[:])
	m.current[off/SectorBytes], m.durable[off/SectorBytes] = p, p
}

// Alive tells whether the device still has power.
func (m *Mem) Alive() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.dead
}
