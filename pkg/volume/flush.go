package volume

import (
	"cmp"
	"errors"
	"runtime"
	"slices"
	"sync"
)

// flushAll seals every dirty buffer, on all cores. The caller holds the gate exclusively. Writes to
// the device continue after it returns.
func (f *flusher) flushAll() error {
	for {
		if more, err := f.flushQueued(); err != nil || !more {
			return err
		}
	}
}

// flushQueued is one round of flushAll. more is false if nothing was queued.
func (f *flusher) flushQueued() (more bool, err error) {
	f.mu.Lock()
	items := append(f.full, f.part...)
	full := len(f.full)
	f.popped += uint64(full)
	f.full, f.part = nil, nil
	f.taken += uint64(len(items))
	f.mu.Unlock()
	defer f.took(full) // the commit itself waits for the writes
	if len(items) == 0 {
		return false, nil
	}
	// Sort by file and offset, so that related data is contiguous.
	slices.SortFunc(items, func(a, b flushItem) int {
		return cmp.Or(cmp.Compare(a.in.ino, b.in.ino), cmp.Compare(a.idx, b.idx))
	})
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		errs []error
	)
	workers := runtime.GOMAXPROCS(0)
	next := func() (batch []flushItem) {
		mu.Lock()
		defer mu.Unlock()
		n := min(len(items), batchBlocks)
		batch, items = items[:n], items[n:]
		return batch
	}
	for range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				todo := next()
				if len(todo) == 0 {
					return
				}
				for len(todo) > 0 {
					b, rest, err := f.sealBatch(todo)
					if err != nil {
						mu.Lock()
						errs = append(errs, err)
						mu.Unlock()
						return
					}
					todo = rest
					f.wg.Add(1)
					go func() { // bounded by the limit on dirty pages
						defer f.wg.Done()
						_ = f.writeBatch(b)
					}()
				}
			}
		}()
	}
	wg.Wait()
	return true, errors.Join(errs...)
}

// waitWrites waits until the device writes of generations up to gen are done.
func (f *flusher) waitWrites(gen uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		busy := false
		for g := range f.writes {
			busy = busy || g <= gen
		}
		if !busy {
			return
		}
		f.done.Wait()
	}
}

// flushAhead lets the flushers take what is queued now, so that less is left to do while the gate
// is closed.
func (f *flusher) flushAhead() {
	v := f.v
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stop || !f.running {
		return
	}
	f.hurry = true
	f.cond.Broadcast()
	for target := f.queued; f.taken < target && f.hurry && !f.stop && v.Failed() == nil; {
		f.done.Wait()
	}
}

// settleFull waits until all buffers that are full now have been written to the device (not
// necessarily durably). The caller is not in the gate.
func (f *flusher) settleFull() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for target := f.pushed; f.popped < target && !f.stop; {
		f.done.Wait()
	}
	f.waitFlights()
}
