package txn

import (
	"fmt"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// ReadBytes is the size of the largest device read.
const ReadBytes = 1 << 20

var readBufs = sync.Pool{New: func() any { b := device.AlignedBytes(ReadBytes); return &b }}

// RunRead is a request for segments [From, From+Count) of a record's run.
type RunRead struct {
	Record *layout.Record
	From   int
	Count  int
	Dst    []byte // as long as the segments
}

// ReadRuns opens several runs. Those that are adjacent on the device are read together. The
// plaintext goes directly to its destination.
func (s *Store) ReadRuns(reads []RunRead) error {
	for len(reads) > 0 {
		subs := make([]layout.Record, 0, len(reads))
		total := 0
		var start uint64
		for _, rd := range reads {
			x := rd.Record.Slice(rd.From, rd.Count)
			n := x.RunBytes()
			if len(subs) == 0 {
				start = x.Addr
			} else if x.Addr != start+uint64(total) || total+n > ReadBytes {
				break
			}
			subs = append(subs, x)
			total += n
		}
		if err := s.readSubs(subs, reads, start, total); err != nil {
			return err
		}
		reads = reads[len(subs):]
	}
	return nil
}

func (s *Store) readSubs(subs []layout.Record, reads []RunRead, start uint64, total int) error {
	bp := readBufs.Get().(*[]byte)
	defer readBufs.Put(bp)
	b := *bp
	if total > len(b) {
		b = device.AlignedBytes(total)
	}
	b = b[:total]
	if err := s.readAt(b, start); err != nil {
		return err
	}
	for i := range subs {
		x := &subs[i]
		n := x.RunBytes()
		if len(reads[i].Dst) != n {
			panic("txn: buffer does not match the run")
		}
		keys := s.Keys.Get(x.Epoch)
		if keys == nil {
			return fmt.Errorf("%w: unknown key epoch %d of an extent", layout.ErrCorrupt, x.Epoch)
		}
		if err := keys.OpenSegments(&x.Extent, x.First, x.Count(), reads[i].Dst, b[:n], x.Tags); err != nil {
			return fmt.Errorf("%w: extent at %d does not verify", layout.ErrCorrupt, x.Addr)
		}
		b = b[n:]
	}
	return nil
}

// BadSegments opens an extent one segment at a time, and reports the runs of segments that do not
// open.
func (s *Store) BadSegments(r *layout.Record, buf []byte, report func(from, n int, err error)) {
	from, n := 0, 0
	var first error
	for i := range r.Count() {
		err := s.ReadRun(r, i, 1, buf[:layout.BlockBytes])
		if err == nil && n > 0 {
			report(from, n, first)
			n = 0
		}
		if err != nil {
			if n == 0 {
				from, first = i, err
			}
			n++
		}
	}
	if n > 0 {
		report(from, n, first)
	}
}
