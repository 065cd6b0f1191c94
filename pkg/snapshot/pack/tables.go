package pack

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// firstGuess is how long a table is taken for, with the trailer, before one was
// read: 256 chunks of 64 KiB.
const firstGuess = 256*format.PackSlotBytes + format.PackTrailerBytes

// scan reads the header of each pack and sorts the packs into streams.
func (x *Index) scan() error {
	var packs []earlierPack
	for n, size := range x.o.Packs {
		if n.Class != format.Pack {
			continue
		}
		p := earlierPack{name: n, bytes: uint32(size)}
		if size < int64(format.PackHeaderBytes+endBytes(1)) || size > format.MaxPackBytes {
			x.warn(&p, errors.New("its length is none of a pack"))
			continue
		}
		packs = append(packs, p)
	}
	kinds := make([]format.PackKind, len(packs))
	x.each(len(packs), func(i int) { kinds[i] = x.readHeader(&packs[i]) })
	if err := context.Cause(x.ctx); err != nil {
		return err
	}
	type key struct {
		attempt format.ID
		kind    format.PackKind
	}
	streams := map[key]*stream{}
	for i, kind := range kinds {
		if kind == 0 {
			continue
		}
		k := key{packs[i].name.Attempt, kind}
		if streams[k] == nil {
			streams[k] = &stream{kind: kind, at: map[[16]byte]place{}, tables: map[int]*table{}, guess: firstGuess}
			x.streams = append(x.streams, streams[k])
		}
		streams[k].packs = append(streams[k].packs, packs[i])
	}
	for _, s := range x.streams {
		slices.SortFunc(s.packs, func(a, b earlierPack) int { return cmp.Compare(a.number, b.number) })
	}
	// Attempts in the order of their numbers: a later one went on after an earlier
	// one, and left out its numbers.
	slices.SortFunc(x.streams, func(a, b *stream) int {
		return cmp.Or(cmp.Compare(a.packs[0].number, b.packs[0].number), bytes.Compare(a.packs[0].name.Attempt[:], b.packs[0].name.Attempt[:]))
	})
	for _, s := range x.streams {
		for i := range s.packs {
			x.list.leave(s.packs[i].number)
		}
	}
	return nil
}

// each calls do for 0 to n-1, some at once.
func (x *Index) each(n int, do func(i int)) {
	var group sync.WaitGroup
	next := make(chan int)
	for range min(n, indexReads) {
		group.Go(func() {
			for i := range next {
				if x.ctx.Err() == nil {
					do(i)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	group.Wait()
}

// readHeader fills in what a pack's header says, and returns its kind, or 0 if the
// pack cannot be used.
func (x *Index) readHeader(p *earlierPack) format.PackKind {
	var b [format.PackHeaderBytes]byte
	err := x.store.GetRange(x.ctx, p.name.Key(), 0, b[:])
	if err != nil {
		x.warn(p, err)
		return 0
	}
	h, err := format.DecodePackHeader(b[:])
	if err == nil && h.Attempt != p.name.Attempt {
		err = errors.New("it was written by another attempt than its name says")
	}
	if err != nil {
		x.warn(p, err)
		return 0
	}
	p.number, p.epoch = h.Number, h.Epoch
	return h.Kind
}

// fill begins to read the tables that are wanted, streams in which something was
// found last first. The caller holds mu.
func (x *Index) fill() {
	if x.closed {
		return
	}
	for _, s := range x.streams {
		for x.forget(s) {
			continue
		}
	}
	order := slices.Clone(x.streams)
	slices.SortStableFunc(order, func(a, b *stream) int { return cmp.Compare(b.hit, a.hit) })
	for _, s := range order {
		for x.reading[0]+x.reading[1] < indexReads && x.wants(s) {
			pos := s.next
			s.next++
			x.count(s, 1)
			x.group.Go(func() { x.load(s, pos) })
		}
	}
}

// count counts the reads of tables that have data or metadata. The caller holds mu.
func (x *Index) count(s *stream, n int) {
	s.reading += n
	for class := range x.reading {
		if s.is(class) {
			x.reading[class] += n
		}
	}
}

// wants reports whether another table of a stream is to be read. The caller holds
// mu.
func (x *Index) wants(s *stream) bool {
	if s.next == len(s.packs) {
		return false
	}
	ahead := s.reading
	for pos := range s.tables {
		if pos > s.last || s.hit == 0 {
			ahead++
		}
	}
	switch {
	case x.slots >= maxIndexSlots:
		return ahead < leastAhead
	case s.hit == 0: // all that wait for their time have what one has that moves
		return ahead < max(leastAhead, packsAhead/len(x.streams))
	}
	return ahead < packsAhead
}

// load reads a table.
func (x *Index) load(s *stream, pos int) {
	x.mu.Lock()
	p, guess := s.packs[pos], s.guess
	x.mu.Unlock()
	slots, n, err := x.readTable(s.kind, &p, guess)
	if err != nil {
		x.warn(&p, err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if err == nil {
		s.guess = max(firstGuess, n)
		t := &table{pos, slots}
		s.tables[pos] = t
		x.slots += len(slots)
		for i := range slots {
			if _, ok := s.at[slots[i].d]; !ok {
				s.at[slots[i].d] = place{t, uint16(i)}
			}
		}
	}
	x.count(s, -1)
	close(x.changed)
	x.changed = make(chan struct{})
	x.fill()
}

// forget forgets the first table of a stream, if it is far behind, or behind and
// there are too many. The caller holds mu.
func (x *Index) forget(s *stream) bool {
	first := len(s.packs)
	for pos := range s.tables {
		first = min(first, pos)
	}
	if first >= s.last || first >= s.last-packsBehind && x.slots <= maxIndexSlots {
		return false
	}
	t := s.tables[first]
	for i := range t.slots {
		if s.at[t.slots[i].d].table == t {
			delete(s.at, t.slots[i].d)
		}
	}
	delete(s.tables, first)
	x.slots -= len(t.slots)
	return true
}

// readTable reads the table of a pack: in one request, if it is not longer than
// guess. It returns how long it is, too.
func (x *Index) readTable(kind format.PackKind, p *earlierPack, guess int) (slots []revealed, n int, err error) {
	end := func(n int) ([]byte, error) {
		b := make([]byte, min(n, int(p.bytes)-format.PackHeaderBytes))
		return b, x.store.GetRange(x.ctx, p.name.Key(), int64(p.bytes)-int64(len(b)), b)
	}
	b, err := end(guess)
	if err != nil {
		return nil, 0, err
	}
	t, err := format.DecodePackTrailer(b[len(b)-format.PackTrailerBytes:], int64(p.bytes))
	if err != nil {
		return nil, 0, err
	}
	if n = t.TableBytes(); n > len(b) {
		if b, err = end(n); err != nil {
			return nil, 0, err
		}
	}
	table, err := format.DecodePackTable(b[len(b)-n:len(b)-format.PackTrailerBytes], &t)
	if err != nil {
		return nil, 0, err
	}
	slots, err = x.reveal(kind, p, table)
	return slots, n, err
}

// reveal takes the masks off the slots of a pack.
func (x *Index) reveal(kind format.PackKind, p *earlierPack, table []format.PackSlot) ([]revealed, error) {
	h := format.PackHeader{Kind: kind, Epoch: p.epoch, Number: p.number, Attempt: p.name.Attempt}
	at := crypto.PackSlot{Snapshot: crypto.UUID(x.s), Header: h.Append(nil)}
	if s, ok := x.o.Snapshots[p.name.Attempt]; ok {
		at.Snapshot = crypto.UUID(s)
	}
	out := make([]revealed, len(table))
	for i := range table {
		s := &table[i]
		at.Index, at.Clear = uint16(i), s.Clear()
		d, pid, err := x.keys.RevealRef(&at, &s.Hidden)
		if err != nil {
			return nil, err
		}
		out[i] = revealed{d, pid, s.Offset, s.Length, s.Kind, s.Comp, s.Suite}
	}
	return out, nil
}
