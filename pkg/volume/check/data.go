package check

import (
	"fmt"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// dataCheck opens several extents at a time.
type dataCheck struct {
	batch []dataRun
	bytes int
	slots chan struct{}
	wg    sync.WaitGroup
}

type dataRun struct {
	ino  uint64
	snap string // name of the snapshot that holds the data, "" for the head
	items.Placed
}

func (d *dataCheck) add(c *checker, ino uint64, p items.Placed, snap string) {
	if n := p.RunBytes(); d.bytes+n > txn.ReadBytes {
		d.flush(c)
	}
	d.batch = append(d.batch, dataRun{ino, snap, p})
	d.bytes += p.RunBytes()
}

func (d *dataCheck) flush(c *checker) {
	batch, bytes := d.batch, d.bytes
	d.batch, d.bytes = nil, 0
	if len(batch) == 0 {
		return
	}
	d.slots <- struct{}{}
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		c.openData(batch, bytes)
		<-d.slots
	}()
}

// openData opens a batch of extents. If that fails, it opens them one segment at a time.
func (c *checker) openData(batch []dataRun, bytes int) {
	buf := make([]byte, bytes)
	reads := make([]txn.RunRead, len(batch))
	for i, at := 0, 0; i < len(batch); i++ {
		n := batch[i].RunBytes()
		reads[i] = txn.RunRead{Record: &batch[i].Record, Count: batch[i].Count(), Dst: buf[at : at+n]}
		at += n
	}
	if c.store.ReadRuns(reads) != nil {
		for i := range batch {
			r := &batch[i]
			c.store.BadSegments(&r.Record, buf, func(from, n int, err error) {
				run := layout.Run{Start: r.Addr/layout.BlockBytes + uint64(from), Count: uint32(n)}
				switch {
				case r.snap != "":
					at := fmt.Sprintf(" at %d+%d", (r.Block+uint64(from))*layout.BlockBytes, n*layout.BlockBytes)
					c.problem(fmt.Sprintf("snapshot %q, inode %d%s", r.snap, r.ino, at), "data cannot be read: %v", err)
				case !c.sharing || !c.keepBad(run, err):
					c.badData(r.ino, r.Block+uint64(from), n, err)
				}
			})
		}
	}
	c.progress(uint64(bytes))
}
