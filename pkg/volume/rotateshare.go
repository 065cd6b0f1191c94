package volume

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/shares"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// A rotation keeps shared data shared: an old extent with several references is sealed once, and
// all references are changed to that copy. Data does not record its references. So the walk skips
// shared records, and at the end of a pass, a look at the whole tree collects them: those of the
// lowest extents, as many as fit in memory. They are handled one extent at a time, so that only one
// extent exists twice. Then the next look follows. No state of this is kept on the device: after a
// crash, the work left is what still has an old epoch.

// sharedRefBytes is the size of a collected reference in memory.
const sharedRefBytes = 32

// sharedRef is a record in the head that refers to a part of an old extent.
type sharedRef struct {
	origin       uint64 // block where the extent begins
	ino, block   uint64 // place of the record
	first, count uint16 // first block in the extent, number of blocks
}

func (r *sharedRef) key() layout.Key { return items.ExtentKey(r.ino, r.block) }

// rotateShared seals all old shared data again. One look collects up to limit references. An extent
// with more references gets one copy for each limit of them.
func (r *rotator) rotateShared(target uint32, limit int) error {
	data := make([]byte, maxSegments*pageBytes)
	for l := (look{limit: limit}); ; {
		next, err := r.collectShared(&l, target)
		if err != nil {
			return err
		}
		for refs := l.refs; len(refs) > 0; {
			n := 1
			for n < len(refs) && refs[n].origin == refs[0].origin {
				n++
			}
			bad, err := r.moveShared(refs[:n], target, data)
			if err != nil {
				return err
			}
			if bad && refs[0].origin == next.low {
				next.low++ // skip the rest of it, too: otherwise the next look would begin with it
			}
			r.update(func() {}) // report progress
			refs = refs[n:]
		}
		if !l.more {
			return nil
		}
		l = next
	}
}

// moveShared handles references to everything that begins in one place. Usually that is one extent.
// If a part of it was freed, other extents may begin in its place. bad means that something could
// not be read.
func (r *rotator) moveShared(refs []sharedRef, target uint32, data []byte) (bad bool, err error) {
	v := r.v
	for len(refs) > 0 {
		m := mover{v: v, target: target, data: data}
		if err := m.run(refs); err != nil {
			return bad, err
		}
		bad, refs = bad || m.bad, m.others
	}
	return bad, nil
}

// look collects references to old shared data from key next on, to extents that begin at block low
// or later, beginning with the lowest extents.
type look struct {
	limit int
	from  layout.Key
	low   uint64
	refs  []sharedRef
	// Set if limit was exceeded: extents that begin at block high or later were left out. The first
	// reference to them is at next.
	more bool
	high uint64
	next layout.Key
}

// add collects a reference.
func (l *look) add(r *sharedRef) {
	switch {
	case r.origin < l.low:
	case l.more && r.origin >= l.high: // all references to an extent belong to the same look, if they fit
		l.drop(r)
	default:
		if l.refs = append(l.refs, *r); len(l.refs) >= 2*l.limit {
			l.cut()
		}
	}
}

func (l *look) drop(r *sharedRef) {
	if k := r.key(); !l.more || k.Less(l.next) {
		l.next = k
	}
	l.more = true
}

// cut sorts the references by extent. If there are more than limit, it drops those to the highest
// extents.
func (l *look) cut() {
	// References to the same part are adjacent: mover makes the fewest copies for them.
	slices.SortFunc(l.refs, func(a, b sharedRef) int {
		return cmp.Or(cmp.Compare(a.origin, b.origin), cmp.Compare(a.first, b.first), cmp.Compare(b.count, a.count),
			cmp.Compare(a.ino, b.ino), cmp.Compare(a.block, b.block))
	})
	if len(l.refs) <= l.limit {
		return
	}
	n := l.limit
	for n > 0 && l.refs[n-1].origin == l.refs[n].origin {
		n--
	}
	if n == 0 {
		n = l.limit
	}
	l.high = l.refs[n].origin
	for i := range l.refs[n:] {
		l.drop(&l.refs[n+i])
	}
	l.refs = l.refs[:n]
}

// collectShared looks at all leaves of the head. It returns the next look.
func (r *rotator) collectShared(l *look, target uint32) (next look, err error) {
	v := r.v
	var found []sharedRef
	for at, left := l.from, true; left; {
		if err := r.pace(layout.NodeBytes); err != nil {
			return next, err
		}
		found = found[:0]
		at, left, err = v.fs.Leaf(at, func(n tree.Leaf) {
			for i := n.First; i < n.Count(); i++ {
				k, val := n.Key(i), n.Value(i)
				if k.Type == layout.KeyExtent && layout.ExtentBlocks(val) > 0 && recordEpoch(val) < target {
					found = append(found, refOf(k, val))
				}
			}
		})
		if err != nil {
			return next, txn.Wrap(fmt.Errorf("tree %d: %w", layout.TreeFS, err))
		}
		for i := range found {
			if shared, err := r.sharedNow(&found[i]); err != nil {
				return next, err
			} else if shared {
				l.add(&found[i])
			}
		}
		if r.quitting() {
			return next, errRotationStops
		}
	}
	l.cut()
	return look{limit: l.limit, from: l.next, low: l.high}, nil
}

// refOf decodes the needed parts of a stored record. ExtentBlocks has checked its length.
func refOf(k layout.Key, val []byte) sharedRef {
	first := uint16(val[72])
	return sharedRef{origin: binary.LittleEndian.Uint64(val)/layout.BlockBytes - uint64(first),
		ino: k.Obj, block: k.Sub, first: first, count: uint16(val[73]) + 1}
}

// sharedNow reports whether something else currently refers to the blocks of x.
func (r *rotator) sharedNow(x *sharedRef) (bool, error) {
	most, err := r.v.shares.Most(layout.Run{Start: x.origin + uint64(x.first), Count: uint32(x.count)})
	return most > 0, txn.Wrap(err)
}

// maxSegments is the most blocks of an extent.
const maxSegments = 256

// mover seals one old extent again and changes its references.
type mover struct {
	v      *Volume
	target uint32
	nonce  [24]byte          // identifies the extent
	data   []byte            // its blocks
	have   [maxSegments]bool // blocks in data that were read
	// Copies of blocks. A record that had the copy when it was last checked identifies it.
	copies [maxSegments]copied
	others []sharedRef // references that turned out to be to another extent
	bad    bool        // something could not be read
}

// copied identifies the copy of a block.
type copied struct {
	layout.FileExtent
	ino, block uint64 // of the record
	at         int    // in the record
	ok         bool
}

// oldRef is a reference with its record.
type oldRef struct {
	sharedRef
	e layout.FileExtent
}

// run changes all references to one extent, in steps.
func (m *mover) run(refs []sharedRef) error {
	for len(refs) > 0 {
		n := min(len(refs), shares.Step)
		step := slices.Clone(refs[:n])
		for len(step) > 0 {
			if m.v.rot.moves != nil {
				m.v.rot.moves()
			}
			var err error
			if step, err = m.step(step); err != nil {
				return err
			}
		}
		refs = refs[n:]
	}
	return nil
}

// step changes references. It returns those whose copy has disappeared.
func (m *mover) step(refs []sharedRef) (left []sharedRef, err error) {
	v := m.v
	pages := 0
	for i := range refs {
		pages = max(pages, int(refs[i].first+refs[i].count))
	}
	if err := v.rot.pace(uint64(pages) * pageBytes); err != nil {
		return nil, err
	}
	// Each record may be in a different page. The counts are where old and new blocks are.
	kept := v.snap.newest.Load() != 0
	c := reservation{pages: pages, nodes: opNodes + 3*len(refs) + 2*v.shares.OverwritePages(2*bufferPages), urgent: !kept}
	if err := v.rot.reserve(c, kept); err != nil {
		return nil, err
	}
	defer v.adm.done(c)
	pin := v.space.Pin()
	defer v.space.Unpin(pin)
	old, err := m.load(refs)
	if errors.Is(err, vfs.ErrCorrupt) || errors.Is(err, vfs.ErrIO) && v.Failed() == nil {
		v.rot.unreadable(err)
		m.bad = true
		return nil, nil
	}
	if err != nil || len(old) == 0 {
		return nil, err
	}
	err = v.inGate(func() error {
		left, err = m.move(old)
		return err
	})
	return left, err
}

// load finds the records of references, some of which may be gone, and reads blocks without a copy.
// The caller has a pin.
func (m *mover) load(refs []sharedRef) (old []oldRef, err error) {
	for _, r := range refs {
		e, ok, err := m.find(func(k layout.Key) ([]byte, bool, error) { return m.v.fs.Get(k, nil) }, &r)
		if err != nil {
			return nil, txn.Wrap(fmt.Errorf("inode %d at %d: %w", r.ino, r.block*pageBytes, err))
		}
		if !ok {
			continue
		}
		if at, err := m.read(&e.Record, int(r.count)); err != nil {
			return nil, txn.Wrap(fmt.Errorf("inode %d at %d: %w", r.ino, (r.block+uint64(at))*pageBytes, err))
		}
		old = append(old, oldRef{r, e})
	}
	return old, nil
}

// read reads unread blocks of a record, adjacent ones together. at is the block that cannot be
// read.
func (m *mover) read(r *layout.Record, count int) (at int, err error) {
	known := func(i int) bool { s := r.First + i; return m.have[s] || m.copies[s].ok }
	get := func(i, n int) error {
		s := r.First + i
		return m.v.store.ReadRun(r, i, n, m.data[s*pageBytes:(s+n)*pageBytes])
	}
	for i := 0; i < count; i++ {
		n := 0
		for i+n < count && !known(i+n) {
			n++
		}
		if n == 0 {
			continue
		}
		err := get(i, n)
		if err != nil && n > 1 { // one at a time, up to the damaged block
			n = 1
			err = get(i, n)
		}
		if err != nil {
			return i, err
		}
		for j := range n {
			m.have[r.First+i+j] = true
		}
		i += n - 1
	}
	return 0, nil
}

// find returns the record of a reference, if it has not changed.
func (m *mover) find(get func(layout.Key) ([]byte, bool, error), r *sharedRef) (e layout.FileExtent, ok bool, err error) {
	val, ok, err := get(r.key())
	if err != nil || !ok {
		return e, false, err
	}
	if e, err = layout.DecodeFileExtent(val); err != nil {
		return e, false, err
	}
	if e.Epoch >= m.target || e.First != int(r.first) || e.Count() != int(r.count) || e.Addr != (r.origin+uint64(r.first))*layout.BlockBytes {
		return e, false, nil
	}
	if m.nonce == [24]byte{} {
		m.nonce = e.Nonce
	}
	if e.Nonce != m.nonce { // the same nonce means the same content
		m.others = append(m.others, *r)
		return e, false, nil
	}
	return e, true, nil
}

// move is the change of a step: it writes copies and updates the records. Readers may follow a
// record as soon as it is stored. The caller is in the gate.
func (m *mover) move(old []oldRef) (left []sharedRef, err error) {
	v := m.v
	get := func(k layout.Key) ([]byte, bool, error) { return v.fs.Get(k, nil) }
	if err := m.verify(old, get, v.fs.ScanFloor); err != nil {
		return nil, err
	}
	fresh, err := m.seal(old)
	if err != nil {
		return nil, err
	}
	err = v.fs.Update(func(w *tree.Writer) error {
		if err := m.verify(old, w.Get, w.ScanFloor); err != nil {
			return err
		}
		left, err = m.refer(w, old, fresh)
		return err
	})
	if err != nil {
		return nil, err
	}
	return left, nil
}

// verify forgets copies that may not exist any more, or that must not get another reference now.
func (m *mover) verify(old []oldRef, get func(layout.Key) ([]byte, bool, error), scan items.Scanner) error {
	for i := range old {
		for s := old[i].first; s < old[i].first+old[i].count; s++ {
			c := &m.copies[s]
			if !c.ok || s > old[i].first && m.copies[s-1].ok && c.ino == m.copies[s-1].ino && c.block == m.copies[s-1].block {
				continue // the same record
			}
			ok, err := m.usable(c, get, scan)
			if err != nil {
				return err
			}
			for j := range m.copies {
				if x := &m.copies[j]; !ok && x.ok && x.ino == c.ino && x.block == c.block && j != int(s) {
					x.ok = false
				}
			}
			c.ok = ok
		}
	}
	return nil
}

// usable reports whether a copy exists and another record may refer to it.
func (m *mover) usable(c *copied, get func(layout.Key) ([]byte, bool, error), scan items.Scanner) (bool, error) {
	val, ok, err := get(items.ExtentKey(c.ino, c.block))
	if err != nil || !ok {
		return false, err
	}
	e, err := layout.DecodeFileExtent(val)
	if err != nil {
		return false, err
	}
	if e.Nonce != c.Nonce || e.Addr != c.Addr || e.First != c.First || e.Count() != c.Count() {
		return false, nil
	}
	if m.v.ranges.owes(&e) {
		return true, nil
	}
	if own, err := m.v.ranges.unowed(scan, c.ino, &items.Placed{Block: c.block, FileExtent: e}); err != nil || own {
		return false, err
	}
	// Another operation may be reserving a range of this file, and may have counted its unshared
	// blocks. Later operations count the result of this step.
	in := m.v.table.grab(c.ino)
	if in == nil {
		return true, nil
	}
	defer m.v.table.put(in)
	if in.mu.TryRLock() {
		in.mu.RUnlock()
		return true, nil
	}
	most, err := m.v.shares.Most((&items.Placed{Block: c.block, FileExtent: e}).Run())
	return most > 0, err
}
