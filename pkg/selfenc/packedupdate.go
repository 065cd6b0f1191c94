package selfenc

import (
	"context"
	"fmt"
	"io"
	"iter"
	"math"
)

// UpdateStats counts what an Update did.
type UpdateStats struct {
	ReadChunks   int64 // read
	ReadBytes    int64
	KeptChunks   int64 // read, and equal to what the old object has
	ZeroChunks   int64 // read, and only zeros
	KnownChunks  int64 // read, and stored by this PackedSealer before
	SealedChunks int64 // stored
	StoredBytes  int64 // of chunks and nodes, sealed
	Nodes        int64 // of the map, stored
}

func (s *UpdateStats) addNode(stored int) {
	if stored > 0 {
		s.Nodes++
		s.StoredBytes += int64(stored)
	}
}

// Add adds the counts of another Update.
func (s *UpdateStats) Add(o *UpdateStats) {
	s.ReadChunks += o.ReadChunks
	s.ReadBytes += o.ReadBytes
	s.KeptChunks += o.KeptChunks
	s.ZeroChunks += o.ZeroChunks
	s.KnownChunks += o.KnownChunks
	s.SealedChunks += o.SealedChunks
	s.StoredBytes += o.StoredBytes
	s.Nodes += o.Nodes
}

// AllDirty is the dirty ranges of data of which nothing is known.
func AllDirty(size int64) iter.Seq2[Range, error] {
	return func(yield func(Range, error) bool) { yield(Range{0, uint64(size)}, nil) }
}

// Update stores the data that r has now, of which old describes an earlier state. dirty are the
// ranges that may have changed since, in ascending order and disjoint; what they have beyond size
// counts for nothing. Ranges that neither old has nor dirty names are zeros. Without old, or if old
// has another chunk size, everything is new; in the latter case, Update reads everything.
//
// It reads only chunks that dirty touches, and the last chunk of the shorter one of both states if
// its length changes. Chunks and parts of the map that have not changed keep their references. The
// result is stored when the Packer says so.
//
// Update seals several batches at once, except for data of one batch, for which it starts no
// goroutine. Several calls may run concurrently, which is useful for small files. It calls r.ReadAt
// concurrently, for up to 1 MiB, and waits for these calls even after ctx has ended. r must return
// the same bytes all the time. Chunks of one call come to the Packer in ascending order.
func (s *PackedSealer) Update(ctx context.Context, old *PackedObject, size int64, dirty iter.Seq2[Range, error], r io.ReaderAt) (PackedObject, UpdateStats, error) {
	if size < 0 {
		return PackedObject{}, UpdateStats{}, fmt.Errorf("%w: %d bytes", ErrTooLarge, size)
	}
	before := PackedObject{ChunkBytes: s.chunk}
	if old != nil {
		if err := old.Validate(); err != nil {
			return PackedObject{}, UpdateStats{}, err
		}
		if old.ChunkBytes == s.chunk {
			before = *old
		} else {
			dirty = AllDirty(size)
		}
	}
	now := PackedObject{ChunkBytes: s.chunk, Bytes: size}
	if size == 0 {
		return now, UpdateStats{}, nil
	}
	u := &packedUpdate{s: s, now: now, r: r, edge: -1}
	u.build = packedBuilder{s: s, old: s.tree(&before), shape: now.shape(), stats: &u.stats}
	u.build.open = make([]*openNode, u.build.shape.level)
	u.setEdge(before.Bytes)
	u.ctx, u.cancel = context.WithCancelCause(ctx)
	defer u.join()
	err := u.run(dirty)
	if err == nil {
		var root packedChild
		if root, err = u.build.finish(u.ctx); err == nil {
			now.Content, now.Root = root.c, root.ref
			return now, u.stats, nil
		}
	}
	return PackedObject{}, u.stats, err
}

// packedUpdate is one call of Update. The goroutine of the call makes jobs and takes their results
// in order.
type packedUpdate struct {
	s      *PackedSealer
	now    PackedObject // without its root
	r      io.ReaderAt
	build  packedBuilder
	stats  UpdateStats
	ctx    context.Context //nolint:containedctx // it lives for one call only
	cancel context.CancelCauseFunc

	// edge is the last chunk of the shorter one of both states, if they differ in size, until there
	// is a job for its node. The nodes above it get other children.
	edge     int64
	edgeRead bool // it has another length now

	next  *packedJob   // is being filled
	queue []*packedJob // in work
	added chan struct{}
}

func (u *packedUpdate) setEdge(before int64) {
	shorter := min(before, u.now.Bytes)
	if before == u.now.Bytes || shorter == 0 {
		return
	}
	u.edge = (shorter - 1) / int64(u.s.chunk)
	u.edgeRead = shorter%int64(u.s.chunk) != 0
}

// run makes jobs of the dirty ranges, and waits for them.
func (u *packedUpdate) run(dirty iter.Seq2[Range, error]) error {
	at, end, next := uint64(0), uint64(u.now.Bytes), int64(0)
	for r, err := range dirty {
		if err != nil {
			return err
		}
		if r.Off < at || r.Len > math.MaxUint64-r.Off {
			return fmt.Errorf("dirty range of %d bytes at %d after one that ends at %d: they must be ascending and disjoint", r.Len, r.Off, at)
		}
		at = r.Off + r.Len
		if r.Len == 0 || r.Off >= end {
			continue
		}
		from, to := max(next, int64(r.Off)/int64(u.s.chunk)), int64(min(at, end)-1)/int64(u.s.chunk)
		if err := u.passEdge(from, to); err != nil {
			return err
		}
		for ; from <= to; from++ {
			if err := u.add(from, true); err != nil {
				return err
			}
		}
		next = to + 1
	}
	if err := u.passEdge(math.MaxInt64, math.MaxInt64); err != nil {
		return err
	}
	if err := u.submit(true); err != nil {
		return err
	}
	for len(u.queue) > 0 {
		if err := u.take(); err != nil {
			return err
		}
	}
	return nil
}

// passEdge adds the edge if it lies before a range of dirty chunks.
func (u *packedUpdate) passEdge(from, to int64) error {
	e := u.edge
	if e < 0 || e > to {
		return nil
	}
	u.edge = -1
	if e >= from {
		return nil
	}
	return u.add(e, u.edgeRead)
}

// add adds a chunk to a job, or only its node.
func (u *packedUpdate) add(i int64, read bool) error {
	node := i >> nodeFanoutShift
	if n := u.next; n == nil || n.node != node || read && len(n.chunks) == u.s.batch {
		part := n != nil && n.node == node
		if n != nil {
			n.whole = n.whole && !part
			if err := u.submit(false); err != nil {
				return err
			}
		}
		u.next = &packedJob{node: node, whole: !part, chunks: make([]int64, 0, min(u.s.batch, 16))}
	}
	if read {
		u.next.chunks = append(u.next.chunks, i)
	}
	return nil
}

// packedQueue is how many jobs there are for each worker: some wait only for their results to be
// taken.
const packedQueue = 2

// submit starts the job that was filled. If it is the only one, it does it.
func (u *packedUpdate) submit(last bool) error {
	j := u.next
	u.next = nil
	if j == nil {
		return nil
	}
	for len(u.queue) >= packedQueue*u.s.width {
		if err := u.take(); err != nil {
			return err
		}
	}
	// A job that waits for its turn to store has memory. So the memory must go to jobs in their
	// order, and whoever waits for memory must not keep a result from being taken.
	for j.memory == nil {
		select {
		case m := <-u.s.places:
			j.setMemory(m)
			continue
		default:
		}
		if len(u.queue) > 0 {
			if err := u.take(); err != nil {
				return err
			}
			continue
		}
		select {
		case m := <-u.s.places:
			j.setMemory(m)
		case <-u.ctx.Done():
			return context.Cause(u.ctx)
		}
	}
	j.u, j.turn, j.added = u, u.added, make(chan struct{})
	u.added = j.added
	if last && len(u.queue) == 0 {
		j.run()
		return u.result(j)
	}
	j.done = make(chan struct{})
	u.queue = append(u.queue, j)
	go func() {
		defer close(j.done)
		j.run()
		if j.err != nil {
			u.cancel(j.err)
		}
	}()
	return nil
}

// take waits for the oldest job and takes its result.
func (u *packedUpdate) take() error {
	j := u.queue[0]
	<-j.done
	u.queue = append(u.queue[:0], u.queue[1:]...)
	return u.result(j)
}

func (u *packedUpdate) result(j *packedJob) error {
	if j.err != nil {
		return j.err
	}
	for i := range j.out {
		p := &j.out[i]
		if err := u.build.put(u.ctx, p.level, p.index, &p.child); err != nil {
			return err
		}
	}
	u.stats.Add(&j.stats)
	if u.s.opts.Progress != nil && j.stats.ReadBytes > 0 {
		u.s.opts.Progress(j.stats.ReadBytes)
	}
	return nil
}

// join ends all jobs.
func (u *packedUpdate) join() {
	u.cancel(nil)
	for _, j := range u.queue {
		<-j.done
	}
}
