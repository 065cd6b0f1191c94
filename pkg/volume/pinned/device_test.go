package pinned_test

import (
	"slices"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/device"
)

// watched is a device of which reads are noted, and before which something else can happen.
type watched struct {
	device.Device
	before func(off int64)           // each read
	after  func(b []byte, off int64) // each read; it may change b
	hooks  sync.Mutex                // held during their calls: pages are read ahead

	mu    sync.Mutex
	reads [][2]int64 // offset, length
}

func (w *watched) ReadAt(b []byte, off int64) (int, error) {
	if w.before != nil {
		w.hooks.Lock()
		w.before(off)
		w.hooks.Unlock()
	}
	n, err := w.Device.ReadAt(b, off)
	if w.after != nil {
		w.hooks.Lock()
		w.after(b[:n], off)
		w.hooks.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reads = append(w.reads, [2]int64{off, int64(len(b))})
	return n, err
}

// take returns the reads since the last call.
func (w *watched) take() [][2]int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.reads
	w.reads = nil
	return r
}

const nodeBytes = 16 << 10

// pages counts reads of metadata pages since the last call of take.
func (w *watched) pages() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(w.reads), func(r [2]int64) bool { return r[1] != nodeBytes }))
}
