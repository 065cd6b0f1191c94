package selfenc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"sync"

	"github.com/sealvol/sealvol/pkg/crypto"
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
		u.next = &packedJob{node: node, whole: !part}
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

// packedJob is a batch of dirty chunks of one node of level 1.
type packedJob struct {
	u      *packedUpdate
	node   int64
	chunks []int64
	whole  bool // no other job has chunks of the node: this one also ends it
	memory *packedScratch
	turn   <-chan struct{} // closed when the job before has stored its chunks; nil: there is none
	added  chan struct{}   // closed when this one has
	done   chan struct{}

	out   []packedPut
	stats UpdateStats
	err   error
}

// packedPut is a change of the map.
type packedPut struct {
	level int
	index int64
	child packedChild
}

// packedScratch is the memory of a batch.
type packedScratch struct {
	plain, objects, payload []byte
	sealed                  []sealedChunk
}

// sealedChunk is a chunk that has no place yet.
type sealedChunk struct {
	out    int // index in the job's out
	ref    crypto.ChunkRef
	object []byte
}

func (j *packedJob) setMemory(m *packedScratch) {
	if m == nil {
		m = &packedScratch{}
	}
	j.memory = m
}

// run does the job.
func (j *packedJob) run() {
	old, err := j.before()
	if err == nil {
		err = j.seal(old.children)
	}
	if err == nil {
		err = j.store()
	}
	close(j.added)
	j.u.s.places <- j.memory // never blocks: it has a place for each
	j.memory = nil
	if err == nil && j.whole && j.u.build.shape.level > 0 {
		err = j.endNode(&old)
	}
	j.err = err
}

// before returns what the job's node was. Without a map, the only chunk is a child of it.
func (j *packedJob) before() (oldNode, error) {
	b := &j.u.build
	if b.shape.level > 0 {
		return b.before(j.u.ctx, 1, j.node)
	}
	e, err := b.old.entry(j.u.ctx, 0, 0)
	return oldNode{children: []packedChild{e}}, err
}

// seal reads and seals the chunks, without storing them.
func (j *packedJob) seal(old []packedChild) error {
	u := j.u
	m := j.memory
	bytes := 0
	for _, i := range j.chunks {
		bytes += int(u.build.shape.at(0, i).span)
	}
	m.plain = grow(m.plain, bytes)
	m.objects = grow(m.objects, bytes+len(j.chunks)*tagRoom)[:0]
	m.sealed = m.sealed[:0]
	j.out = make([]packedPut, 0, len(j.chunks))
	plain := m.plain
	for rest := j.chunks; len(rest) > 0; {
		first, run := rest[0], 1
		for run < len(rest) && rest[run] == first+int64(run) {
			run++
		}
		rest = rest[run:]
		b := plain[:min(int64(run*u.s.chunk), u.now.Bytes-first*int64(u.s.chunk))]
		plain = plain[len(b):]
		if err := j.read(b, first); err != nil {
			return err
		}
		for i := first; len(b) > 0; i++ {
			was := &PackedRef{}
			if k := int(i & (nodeFanout - 1)); k < len(old) {
				was = &old[k].ref
			}
			c := b[:min(u.s.chunk, len(b))]
			if err := j.sealChunk(i, c, was); err != nil {
				return &PackedError{Index: i, Err: err}
			}
			b = b[len(c):]
		}
	}
	return nil
}

// read reads consecutive chunks.
func (j *packedJob) read(b []byte, first int64) error {
	if err := j.u.ctx.Err(); err != nil {
		return context.Cause(j.u.ctx)
	}
	off := first * int64(j.u.s.chunk)
	n, err := j.u.r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes of data at %d: %w", len(b), off, err)
}

// sealChunk finds out whether a chunk is stored already, and seals it otherwise.
func (j *packedJob) sealChunk(i int64, plain []byte, old *PackedRef) error {
	s, m := j.u.s, j.memory
	j.stats.ReadChunks++
	j.stats.ReadBytes += int64(len(plain))
	j.out = append(j.out, packedPut{index: i})
	out := &j.out[len(j.out)-1].child
	if isZero(plain) {
		j.stats.ZeroChunks++
		return nil
	}
	id, err := s.keys.Identify(crypto.ChunkData, plain)
	if err != nil {
		return err
	}
	d := id.D()
	if old.Kind == crypto.ChunkData && old.D == d && int(old.Length) == len(plain) {
		j.stats.KeptChunks++
		out.ref = *old
		return nil
	}
	if r, ok := s.known(j.u.ctx, crypto.ChunkData, &d, uint32(len(plain))); ok {
		j.stats.KnownChunks++
		out.ref = r
		return nil
	}
	used := len(m.objects)
	ref, objects, err := s.sealIdentified(&id, plain, &m.payload, m.objects)
	if err != nil {
		return err
	}
	m.objects = objects
	m.sealed = append(m.sealed, sealedChunk{len(j.out) - 1, ref, objects[used:]})
	return nil
}

// store waits for the job's turn and stores its chunks.
func (j *packedJob) store() error {
	if j.turn != nil {
		select {
		case <-j.turn:
		case <-j.u.ctx.Done():
			return context.Cause(j.u.ctx)
		}
	}
	for k := range j.memory.sealed {
		c := &j.memory.sealed[k]
		r, stored, err := j.u.s.add(j.u.ctx, &c.ref, c.object)
		if err != nil {
			return &PackedError{Index: j.out[c.out].index, Err: err}
		}
		j.out[c.out].child.ref = r
		if stored == 0 {
			j.stats.KnownChunks++
			continue
		}
		j.stats.SealedChunks++
		j.stats.StoredBytes += int64(stored)
	}
	return nil
}

// openNodes are for jobs that end nodes.
var openNodes = sync.Pool{New: func() any { return new(openNode) }}

// endNode makes one change, of the node, of all changes.
func (j *packedJob) endNode(old *oldNode) error {
	n := openNodes.Get().(*openNode)
	defer openNodes.Put(n)
	j.u.build.begin(n, 1, j.node, old)
	for i := range j.out {
		n.set(j.out[i].index, &j.out[i].child)
	}
	c, err := j.u.build.end(j.u.ctx, n, &j.stats)
	if err != nil {
		return err
	}
	j.out = []packedPut{{1, j.node, c}}
	return nil
}
