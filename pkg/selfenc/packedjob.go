package selfenc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/sealvol/sealvol/pkg/crypto"
)

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
	d                       [32]byte
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
	m.d = id.D()
	if old.Kind == crypto.ChunkData && old.D == m.d && int(old.Length) == len(plain) {
		j.stats.KeptChunks++
		out.ref = *old
		return nil
	}
	if r, ok := s.known(j.u.ctx, crypto.ChunkData, &m.d, uint32(len(plain))); ok {
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
