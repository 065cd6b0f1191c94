package volume

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// scrubbedSnap is a snapshot whose tree a scrub walks. It is not held: deleting it ends the walk.
type scrubbedSnap struct {
	*snapshot
	tree layout.Pointer
	gone bool
}

// damagePlace is used to find out who holds a damage.
type damagePlace struct {
	snap *snapshot       // where it was found; nil: in the head
	page *layout.Pointer // with key, the first key of the page
	key  layout.Key
	data uint64 // byte address of a file's data
}

// damageKey identifies a damage.
type damageKey struct {
	where    string
	ino, off uint64
}

// behindSnapshot is the position after a snapshot. The next snapshot may skip shared parts only if
// all of this one was read.
func (p scrubPosition) behindSnapshot(gone bool) scrubPosition {
	if !gone && p.torn == 0 {
		p.since = p.snap
	}
	p.snap, p.torn, p.key = p.snap+1, 0, layout.Key{}
	return p
}

// listedFrom returns the oldest listed snapshot of generation gen or later, nil if there is none.
func (s *snapshots) listedFrom(gen uint64) *snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.live[sort.Search(len(s.live), func(i int) bool { return s.live[i].gen >= gen }):] {
		if s.byName[t.name] == t {
			return t
		}
	}
	return nil
}

// isListed reports whether a snapshot still exists.
func (s *snapshots) isListed(t *snapshot) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byName[t.name] == t
}

// snapshots reads the snapshots that exist now, from the oldest to the newest. Of each it reads
// what is younger than the previous one that was read. What is older and in both was read there.
func (s *scrub) snapshots(ctx context.Context) error {
	last := s.v.snap.newest.Load() // otherwise new snapshots might keep it running
	for {
		t := s.v.snap.listedFrom(s.pos.snap)
		if t == nil || t.gen > last {
			return nil
		}
		if err := s.snapshot(ctx, t); err != nil {
			return err
		}
	}
}

func (s *scrub) snapshot(ctx context.Context, t *snapshot) error {
	if t.gen != s.pos.snap {
		s.pos.snap, s.pos.torn, s.pos.key = t.gen, 0, layout.Key{}
	}
	s.snap = &scrubbedSnap{snapshot: t}
	defer func() { s.snap = nil }()
	x, err := s.v.snap.read(t)
	if err != nil {
		if s.v.snap.isListed(t) {
			s.found(Damage{Where: fmt.Sprintf("snapshot %q", t.name), What: err.Error() + "; data that only this snapshot holds cannot be read"})
		}
		s.pos = s.pos.behindSnapshot(true)
		return nil
	}
	s.snap.tree = x.Tree
	return s.walk(ctx, layout.TreeFS, s.pos.since)
}

// maxNamedSnaps bounds the passes over names.
const maxNamedSnaps = 16

// findNames looks up the names of damaged files: one more pass over the names of the head, and of
// each snapshot that is the only holder of a damage.
func (s *scrub) findNames(ctx context.Context) error {
	finders := map[*snapshot]*items.NameFinder{}
	for i := range s.rep.Damages {
		d := &s.rep.Damages[i]
		d.Head = d.at.snap != nil && s.headHolds(d)
		f := finders[d.namedIn()]
		if f == nil {
			f = items.NewNameFinder()
			finders[d.namedIn()] = f
		}
		f.Add(d.Ino)
		f.AddRange(d.lost)
	}
	var in []*snapshot
	for t, f := range finders {
		if !f.Empty() {
			in = append(in, t)
		}
	}
	slices.SortFunc(in, func(a, b *snapshot) int { return cmp.Compare(a.generation(), b.generation()) })
	for _, t := range in[:min(len(in), 1+maxNamedSnaps)] {
		if err := s.see(ctx, t, finders[t]); err != nil {
			return err
		}
	}
	for i := range s.rep.Damages {
		d := &s.rep.Damages[i]
		f := finders[d.namedIn()]
		d.Path = f.Path(d.Ino)
		if d.Ino == uint64(vfs.RootIno) {
			d.Path = "/"
		}
		d.Files, d.More = f.Paths(d.lost)
	}
	return nil
}

// generation is that of a snapshot, 0 for the head.
func (t *snapshot) generation() uint64 {
	if t == nil {
		return 0
	}
	return t.gen
}

// namedIn is the snapshot in which a damage's files are named; nil: the head.
func (d *Damage) namedIn() *snapshot {
	if d.Head {
		return nil
	}
	return d.at.snap
}

// see passes all names of a snapshot, or of the head, to a finder.
func (s *scrub) see(ctx context.Context, t *snapshot, f *items.NameFinder) error {
	names, at := s.v.fs, layout.Pointer{}
	if t != nil {
		x, err := s.v.snap.read(t)
		if err != nil {
			return nil //nolint:nilerr // it was deleted, or its damage is reported: names are unknown
		}
		names, at = tree.New(tree.Config{ID: layout.TreeFS, Cache: s.v.cache}, x.Tree, x.Generation+1), x.Tree
	}
	w := &pageWalk{store: s.v.store, tree: layout.TreeFS, page: func(*pageRead) {}, item: f.See}
	for !w.end {
		s.pinned(func() {
			switch {
			case t == nil:
				w.step(&s.root.Trees[layout.TreeFS], s.root.Generation, scrubStep)
			case s.v.snap.isListed(t):
				w.step(&at, t.gen, scrubStep)
			default:
				w.end = true
			}
		})
		if err := s.pace.wait(ctx, w.spent); err != nil {
			return err
		}
	}
	f.Resolve(&items.Lookup{Tree: names})
	return nil
}

// headHolds reports whether damage that was found in a snapshot is in the head, too.
func (s *scrub) headHolds(d *Damage) (holds bool) {
	s.pinned(func() {
		switch {
		case d.at.page != nil:
			holds = s.headHasPage(d.at.page, d.at.key)
		case d.at.data != 0:
			holds = s.headHasData(d)
		}
	})
	return holds
}

func (s *scrub) headHasPage(p *layout.Pointer, key layout.Key) bool {
	at, in := s.root.Trees[layout.TreeFS], tree.Range{}
	for at.Level > p.Level {
		n, err := s.v.cache.Page(&at, in)
		if err != nil {
			return false
		}
		i := tree.Slot(n, key)
		in = in.Child(n, i)
		if at, err = tree.ChildPointer(&at, n, i); err != nil {
			return false
		}
	}
	return at.Addr == p.Addr && at.Nonce == p.Nonce
}

func (s *scrub) headHasData(d *Damage) bool {
	from := d.Offset / layout.BlockBytes
	head := items.Lookup{Tree: tree.New(tree.Config{ID: layout.TreeFS, Cache: s.v.cache}, s.root.Trees[layout.TreeFS], s.root.Generation+1)}
	es, err := head.Extents(d.Ino, from, from+d.Length/layout.BlockBytes)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(es, func(e items.Placed) bool {
		return e.Addr-e.Block*layout.BlockBytes == d.at.data-from*layout.BlockBytes
	})
}
