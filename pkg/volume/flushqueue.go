package volume

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// flushItem identifies a dirty buffer. It holds a reference to the inode.
type flushItem struct {
	in  *inode
	idx uint64
}

// flusher writes dirty buffers to the device ahead of the commit: full buffers at once, others when
// there are many.
type flusher struct {
	v *Volume

	mu      sync.Mutex
	cond    sync.Cond
	full    []flushItem
	part    []flushItem
	hurry   bool // writers are waiting
	stop    bool
	running bool
	wg      sync.WaitGroup

	lastID uint64              // of flushes
	flying map[uint64]struct{} // flushes whose writes to the device are not done
	pushed uint64              // full buffers queued so far
	popped uint64              // and taken so far

	queued uint64 // buffers queued so far, of both kinds
	taken  uint64 // and taken so far

	backlog atomic.Int64 // full buffers queued or being written

	// writes counts running writes to the device, by generation; guarded by mu.
	writes map[uint64]int
	done   sync.Cond

	refs refs
	kept kept
}

func (f *flusher) init() {
	f.cond.L, f.done.L = &f.mu, &f.mu
	f.writes = map[uint64]int{}
	f.flying = map[uint64]struct{}{}
}

func (f *flusher) kick() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hurry = true
	f.cond.Broadcast()
}

// pushItem queues a buffer.
func (f *flusher) pushItem(it flushItem, full bool) {
	v := f.v
	v.table.hold(it.in)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queued++
	if full {
		f.full = append(f.full, it)
		f.pushed++
		f.backlog.Add(1)
		f.cond.Signal()
	} else {
		f.part = append(f.part, it)
		if len(f.part)%64 == 0 {
			f.cond.Signal()
		}
	}
}

// pushFull queues buffers that are flushed at once and in sequence.
func (f *flusher) pushFull(items []flushItem) {
	v := f.v
	for _, it := range items {
		v.table.hold(it.in)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(items)
	f.queued += uint64(n)
	f.full = append(f.full, items...)
	f.pushed += uint64(n)
	f.backlog.Add(int64(n))
	f.cond.Broadcast()
}

// work waits until there is something to flush. It returns false at the end.
func (f *flusher) work() bool {
	v := f.v
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.stop {
		if len(f.full) > 0 || len(f.part) > 0 && (f.hurry || v.adm.dirtyCount() > v.adm.soft) {
			return true
		}
		f.hurry = false
		f.done.Broadcast()
		f.cond.Wait()
	}
	return false
}

// take removes a batch of items from the queues. The caller is in the gate, so that no commit
// misses items that are in no queue. When the batch is written, the caller reduces the backlog by
// taken. id is in flying until then: whoever needs an item that is in no queue any more waits for
// it.
func (f *flusher) take() (items []flushItem, taken int, id uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := min(len(f.full), batchBlocks/bufferPages); n > 0 {
		items = slices.Clone(f.full[:n])
		f.full = f.full[n:]
		f.popped += uint64(n)
		taken = n
	} else if n := min(len(f.part), batchBlocks); n > 0 {
		items = slices.Clone(f.part[:n])
		f.part = f.part[n:]
	}
	f.taken += uint64(len(items))
	f.lastID++
	f.flying[f.lastID] = struct{}{}
	return items, taken, f.lastID
}

func (f *flusher) endFlight(id uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.flying, id)
	f.done.Broadcast()
}

// took reduces the backlog by n full buffers.
func (f *flusher) took(n int) {
	v := f.v
	f.backlog.Add(int64(-n))
	v.adm.wake()
}

func (f *flusher) start() {
	v := f.v
	f.mu.Lock()
	f.running = true
	f.mu.Unlock()
	for range 2 * runtime.GOMAXPROCS(0) {
		f.wg.Add(1)
		go func() {
			defer f.wg.Done()
			for f.work() {
				v.gate.RLock()
				items, taken, id := f.take()
				done, _ := f.sealBatches(items)
				v.gate.RUnlock()
				_ = f.writeBatches(done)
				f.endFlight(id)
				if taken > 0 {
					f.took(taken)
				}
			}
		}()
	}
}

func (f *flusher) end() {
	v := f.v
	f.mu.Lock()
	f.stop = true
	f.cond.Broadcast()
	f.done.Broadcast()
	f.mu.Unlock()
	f.wg.Wait()
	// The rest belongs to a failed volume.
	for _, it := range append(f.full, f.part...) {
		v.table.put(it.in)
	}
	f.full, f.part = nil, nil
}

// waitFlights waits until the flushes that are running now have ended. The caller holds mu and is
// not in the gate.
func (f *flusher) waitFlights() {
	for last := f.lastID; ; f.done.Wait() {
		busy := false
		for id := range f.flying {
			busy = busy || id <= last
		}
		if !busy {
			return
		}
	}
}
