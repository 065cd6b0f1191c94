package check

import (
	"fmt"
	"sort"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// see records a page of tree 1 of the head or of a snapshot. seen reports whether it was read
// before.
func (s *snapCheck) see(p *layout.Pointer, where string) (seen bool) {
	b := make([]byte, layout.PointerBytes)
	p.Put(b)
	h := s.c.hash.Sum(b)
	old, seen := s.pages[p.Addr]
	if seen && old != h {
		s.c.problem(where, "two trees have different pages at this address")
	}
	s.pages[p.Addr] = h
	return seen
}

// snapWalk reads the part of a snapshot that it does not share with the next newer one.
type snapWalk struct {
	s     *snapCheck
	t     *checkedSnap
	newer *items.Lookup
}

func (w *snapWalk) walk(uint64) {
	x := walk{c: w.s.c, id: layout.TreeFS, mark: true, snap: w, item: w.item}
	x.node(&w.t.tree, w.t.tree.Level, w.t.gen, layout.Key{}, nil)
}

// holds records that the snapshot, and no newer one, refers to a run with this birth.
func (w *snapWalk) holds(r layout.Run, birth uint64, where string) bool {
	s := w.s
	if _, ok := s.c.mark(r, where, 0, true); !ok {
		return false
	}
	i := sort.Search(len(s.live), func(i int) bool { return s.live[i].gen >= birth })
	if wrong := s.toggle(r, false, [2]uint32{s.live[min(i, len(s.live)-1)].id, w.t.id}); wrong > 0 && !s.lost {
		s.c.problem(where, "%d of blocks %d+%d are held only by snapshots, but are in no dead list", wrong, r.Start, r.Count)
	}
	return true
}

// item checks an item of a leaf that is not shared with the next newer tree. The item itself may be
// the same there.
func (w *snapWalk) item(birth uint64, k layout.Key, v []byte) {
	if err := w.check(birth, k, v); err != nil {
		w.s.c.problem(fmt.Sprintf("snapshot %q, inode %d", w.t.name, k.Obj), "%v", err)
	}
}

func (w *snapWalk) check(birth uint64, k layout.Key, v []byte) (err error) {
	switch k.Type {
	case layout.KeyInode:
		_, err = layout.DecodeInode(v)
	case layout.KeyName:
		_, err = layout.DecodeName(v)
	case layout.KeyXattr:
		_, err = layout.DecodeXattr(v, int(k.Sub&0xff))
	case layout.KeyOrphan, layout.KeyReserver, layout.KeyInline:
	case layout.KeyReserved:
		_, err = layout.DecodeReserved(k.Sub, v)
	case layout.KeyExtent:
		var e layout.FileExtent
		if e, err = layout.DecodeFileExtent(v); err == nil {
			err = w.extent(birth, k.Obj, items.Placed{Block: k.Sub, FileExtent: e})
		}
	default:
		err = fmt.Errorf("item of unknown type %#x", k.Type)
	}
	return err
}

func (w *snapWalk) extent(birth, ino uint64, p items.Placed) error {
	if p.Birth > birth || p.RefBirth > birth {
		return fmt.Errorf("the extent at block %d has generation %d (refbirth %d), but its page has generation %d", p.Block, p.Birth, p.RefBirth, birth)
	}
	same, err := w.newer.Extents(ino, p.Block, p.End())
	if err != nil {
		w.s.c.lostSnaps = true // reported where that tree is read
		return nil             //nolint:nilerr // see above
	}
	at := p.Block
	for i := range same {
		q := &same[i]
		if q.Nonce != p.Nonce || q.RefBirth != p.RefBirth || q.Addr-q.Block*layout.BlockBytes != p.Addr-p.Block*layout.BlockBytes {
			continue
		}
		w.part(ino, p, at, max(at, min(q.Block, p.End())))
		at = max(at, min(q.End(), p.End()))
	}
	w.part(ino, p, at, p.End())
	return nil
}

// part checks blocks [a, b) of an extent that only this snapshot and older ones hold.
func (w *snapWalk) part(ino uint64, p items.Placed, a, b uint64) {
	if a >= b {
		return
	}
	where := fmt.Sprintf("snapshot %q, inode %d at %d+%d", w.t.name, ino, a*layout.BlockBytes, (b-a)*layout.BlockBytes)
	r := layout.Run{Start: p.Addr/layout.BlockBytes + a - p.Block, Count: uint32(b - a)}
	if w.holds(r, p.RefBirth, where) && w.s.c.opts.Data {
		x := items.Placed{Block: a, FileExtent: layout.FileExtent{Record: p.Slice(int(a-p.Block), int(b-a)), RefBirth: p.RefBirth}}
		w.s.c.data.add(w.s.c, ino, x, w.t.name)
	}
}

// walkAbandoned reads the rest of an abandoned head: what is younger than the snapshot and not
// freed yet.
func (s *snapCheck) walkAbandoned() {
	a := s.left
	w := walk{c: s.c, id: layout.TreeFS, mark: true, left: a}
	w.item = func(_ uint64, k layout.Key, v []byte) {
		if k.Type != layout.KeyExtent || k.Less(a.Next) {
			return
		}
		where := fmt.Sprintf("abandoned head, inode %d at %d", k.Obj, k.Sub*layout.BlockBytes)
		switch e, err := layout.DecodeFileExtent(v); {
		case err != nil:
			s.c.problem(where, "%v", err)
		case e.RefBirth > a.Generation:
			s.c.mark(layout.Run{Start: e.Addr / layout.BlockBytes, Count: uint32(e.Blocks())}, where, 0, true)
		}
	}
	w.node(&a.Tree, a.Tree.Level, s.c.root.Generation, layout.Key{}, nil)
}
