package snapshot_test

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/volume/volumetest"
)

var (
	historySeed  = flag.Uint64("snapshot.seed", 0, "seed of the first history; 0: from the clock")
	historyCount = flag.Int("snapshot.histories", 3, "number of random histories")
)

// TestHistories stores states of random histories in all ways that there are, which give the same
// bytes: on the state before, on one whose local snapshot is gone, from nothing, and after a
// restore.
func TestHistories(t *testing.T) {
	seed := *historySeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-snapshot.seed=%d", seed)
	for i := range *historyCount {
		if !t.Run(fmt.Sprint(seed+uint64(i)), func(t *testing.T) { runHistory(t, seed+uint64(i)) }) {
			break
		}
	}
}

func runHistory(t *testing.T, seed uint64) {
	h := volumetest.NewHistory(t, seed, 128<<20)
	h.Large = true
	sizes := []snapstore.Options{{}, {ChunkBytes: 16 << 10, PackBytes: 1 << 20}, {ChunkBytes: 32 << 10, PackBytes: 4 << 20}}
	r := newHistoryRig(t, h, sizes[seed%3])
	for batch := range 3 {
		h.Steps(20 + h.Rng.IntN(250))
		if h.Rng.IntN(2) == 0 {
			h.Maintain()
		}
		r.store1(batch)
	}
	h.Close()
}

// store1 stores a state in all ways.
func (r *historyRig) store1(batch int) {
	r.t.Helper()
	h := r.h
	name := h.Snapshot()
	full := r.put("", name, r.options(nil))
	r.verify(full, true)
	r.sameView(name, full)
	next := full
	if batch > 0 {
		base := r.stored[len(r.stored)-1-h.Rng.IntN(min(2, len(r.stored)))]
		o := r.options(base.rep)
		o.RecountEvery = 1 + h.Rng.IntN(2)
		changes := r.put(base.name, name, o)
		r.same("on "+base.name, full, changes)
		r.verify(changes, changes.Recount)
		o.Suite = 1
		read := r.put("", name, o)
		if read.Full == "" {
			r.t.Fatal("it was not read as a whole")
		}
		r.same("read, on "+base.name, full, read)
		r.verify(read, read.Recount)
		r.sameView(name, changes)
		switch h.Rng.IntN(3) {
		case 0:
			next = changes
		case 1:
			next = read
		}
	}
	if h.Rng.IntN(2) == 0 {
		r.restored(next)
	}
	r.stored = append(r.stored, storedState{name, next})
	if batch > 0 {
		r.sameDiff(r.stored[r.h.Rng.IntN(batch)], r.stored[batch])
	}
}
