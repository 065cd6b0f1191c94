package volume

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// snapshots is what a volume knows of its snapshots. Tree 3 has the rest.
//
// A snapshot is the head's tree as of the end of a generation g. The commit
// that ends g takes it: from then on what the head drops of it goes to a dead
// list. Where its tree lies is known once g is durable, so the commit of g+1
// names it, in tree 3. A crash before that leaves no snapshot and no trace.
type snapshots struct {
	manage sync.Mutex // one change of snapshots at a time; comes before all other locks

	newest      atomic.Uint64 // generation of the newest in live, 0: none; rises with the gate held alone, may fall while others are inside it
	pendingRuns atomic.Int64  // len(pending)
	sumPages    atomic.Int64  // bounds the pages that hold the sums of one dead list
	places      atomic.Int64  // freePlaces, less in tests

	mu      sync.Mutex // a leaf lock
	cond    sync.Cond  // dying or abandoned changed, or no more is freed
	state   layout.SnapState
	dirty   bool        // state is newer than the tree
	live    []*snapshot // ascending ids and generations
	byName  map[string]*snapshot
	dying   []*snapshot // what only they held is still to be freed
	pending []deadRun   // of the open generation
	want    *snapshot   // to be taken at the end of the open generation
	taken   *snapshot   // by the last freeze; the next one names it

	abandoned *abandoned // what the last rollback left and is not freed yet

	stop    bool
	stalled error // why nothing is freed although something should be
	blunt   bool  // restamp has failed; the next mount tries again
	passing bool  // restamp is under way
	done    chan struct{}
}

// snapshot is one of them in memory. All but views, holds and going is constant once it has an id.
type snapshot struct {
	id      uint32
	gen     uint64
	created vfs.Timespec
	name    string
	sectors uint64 // referenced when it was made
	inodes  uint64
	epoch   uint32
	passing bool   // made for a moment, and marked as deleted in the tree
	dead    uint64 // sectors in dead lists when it was taken
	// Of reserved ranges; when it was taken.
	promised, ranges uint64
	views            int  // OpenSnapshot; under mu
	holds            int  // Diff; under mu
	going            bool // DeleteSnapshot is at it: nobody may begin to use it; under mu
}

// SnapshotInfo describes a local snapshot.
type SnapshotInfo struct {
	Name       string
	ID         uint32 // never used again
	Generation uint64 // at whose end it was taken
	Created    time.Time
	// UniqueBytes is what deleting it would free, at most: data that something else
	// shares (a reflink) counts, too.
	UniqueBytes int64
	// ReferencedBytes is what files and metadata took when it was made, the
	// volume's own maps included.
	ReferencedBytes int64
	Inodes          uint64
	// KeyEpoch is the oldest key epoch that the volume held when it was made: its
	// data may need it.
	KeyEpoch uint32
	// Deleting says that it is gone, but not all that it held is free yet.
	Deleting bool
	Open     bool // somebody reads it
}

func (s *snapshots) init() {
	s.cond.L = &s.mu
	s.places.Store(freePlaces)
	s.state.NextID = 1
	s.byName = map[string]*snapshot{}
}

func (s *snapshots) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cond.Broadcast()
}

// changed keeps what follows from live; the caller holds mu.
func (s *snapshots) changed() {
	s.sumPages.Store(int64(len(s.live))/200 + 2)
	if n := len(s.live); n > 0 {
		s.newest.Store(s.live[n-1].gen)
	} else {
		s.newest.Store(0)
	}
}

// loadSnapshots reads what the newest root has of snapshots.
func (v *Volume) loadSnapshots() error {
	s := &v.snap
	var derr error
	bad := func(format string, args ...any) bool {
		derr = fmt.Errorf("%w: "+format, append([]any{layout.ErrCorrupt}, args...)...)
		return false
	}
	last := uint64(0)
	err := v.snaps.Scan(layout.Key{}, layout.Key{Type: 0xff, Sub: ^uint64(0)}, func(k layout.Key, val []byte) bool {
		switch {
		case k.Type == layout.KeySnapState && k.Sub == 0:
			s.state, derr = layout.DecodeSnapState(val)
		case k.Type == layout.KeySnapshot && k.Sub > 0 && k.Sub < uint64(s.state.NextID):
			var x layout.Snapshot
			if x, derr = layout.DecodeSnapshot(val); derr != nil {
				break
			}
			if x.Generation <= last || x.Generation >= v.gen {
				return bad("snapshot %q of generation %d after one of %d", x.Name, x.Generation, last)
			}
			last = x.Generation
			t := &snapshot{id: uint32(k.Sub), gen: x.Generation, created: x.Created, name: x.Name, sectors: x.Sectors, inodes: x.Inodes, epoch: x.Epoch}
			if x.Deleting {
				s.dying = append(s.dying, t)
			} else if s.byName[x.Name] != nil {
				return bad("two snapshots are called %q", x.Name)
			} else {
				s.live = append(s.live, t)
				s.byName[x.Name] = t
			}
		case k.Type == layout.KeyAbandoned && s.abandoned == nil:
			s.abandoned = &abandoned{point: k.Sub}
			s.abandoned.Abandoned, derr = layout.DecodeAbandoned(val)
		default:
			return bad("item %v of tree %d", k, layout.TreeSnapshots)
		}
		return derr == nil
	})
	if err == nil {
		err = derr
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed()
	if n := s.newest.Load(); n != v.root.NewestSnapshot {
		return fmt.Errorf("%w: the root says that the newest is of generation %d, it is %d", layout.ErrCorrupt, v.root.NewestSnapshot, n)
	}
	return nil
}

// take is the end of a generation: if somebody waits for a snapshot, it is
// this; epoch is the oldest that the head needs, if that is known. It returns the newest of those that the root's tree 3 names.
func (s *snapshots) take(gen, inodes uint64, epoch uint32, res *reservations) (newest uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.live) - 1; i >= 0 && newest == 0; i-- {
		if !s.live[i].passing {
			newest = s.live[i].gen
		}
	}
	t := s.want
	if t == nil {
		return newest
	}
	s.want, s.taken = nil, t
	t.epoch = max(t.epoch, epoch)
	t.id, t.gen, t.inodes, t.dead = s.state.NextID, gen, inodes, s.state.DeadSectors
	s.state.NextID++
	s.state.Point, s.dirty = t.id, true
	s.live = append(s.live, t)
	s.changed()
	res.pin(gen)
	t.promised, t.ranges = res.stored().Promised, res.stored().Ranges
	return newest
}

// nameSnapshot puts the item of a snapshot into the tree, one generation after
// the one that it is of.
func (v *Volume) nameSnapshot(w *tree.Writer, t *snapshot) error {
	v.stateMu.Lock()
	r := v.root
	v.stateMu.Unlock()
	if r.Generation != t.gen {
		return fmt.Errorf("%w: snapshot %q of generation %d, the last one is %d", layout.ErrCorrupt, t.name, t.gen, r.Generation)
	}
	used := r.DeviceSectors - r.DataStart() - r.FreeSectors - t.dead
	for i := range r.FreeLists {
		used -= r.FreeLists[i].Sectors
	}
	t.sectors = used
	x := layout.Snapshot{Generation: t.gen, Created: t.created, Tree: r.Trees[layout.TreeFS], Inodes: t.inodes, Sectors: used, Epoch: t.epoch, Deleting: t.passing,
		Promised: t.promised, Ranges: t.ranges, Name: t.name}
	return w.Put(items.SnapshotKey(t.id), x.Append(nil))
}

// CreateSnapshot makes a snapshot of everything that was acknowledged before
// the call. It is durable when the call returns.
func (v *Volume) CreateSnapshot(name string) (SnapshotInfo, error) {
	if !layout.ValidSnapshotName(name) {
		return SnapshotInfo{}, fmt.Errorf("%w: %.200q; 1 to %d letters, digits and . _ - : + @, the first a letter, a digit or _", ErrSnapshotName, name, layout.MaxSnapshotName)
	}
	s := &v.snap
	s.manage.Lock()
	defer s.manage.Unlock()
	if err := v.writable(); err != nil {
		return SnapshotInfo{}, err
	}
	s.mu.Lock()
	exists := s.byName[name] != nil
	s.mu.Unlock()
	if exists {
		return SnapshotInfo{}, fmt.Errorf("%w: %s", ErrSnapshotExists, name)
	}
	t := &snapshot{name: name}
	if err := v.takeSnapshot(t); err != nil {
		return SnapshotInfo{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byName[name] = t
	return t.info(), nil
}

// takeSnapshot makes a snapshot; the caller holds manage.
func (v *Volume) takeSnapshot(t *snapshot) error {
	s := &v.snap
	t.created = vfs.Now()
	s.mu.Lock()
	full := len(s.live)+len(s.dying) >= layout.MaxSnapshots || s.state.NextID == 1<<32-1
	s.mu.Unlock()
	if full {
		return fmt.Errorf("%w: %d, those that are being deleted included", ErrTooManySnapshots, layout.MaxSnapshots)
	}
	// Not while admitted: who changes keys may be waiting for that.
	if err := v.requireFeature(layout.FeatureSnapshots); err != nil {
		return err
	}
	_, epochs := v.Keys()
	t.epoch = epochs[0]
	c := cost{quads: opQuads, pins: 1}
	if err := v.admit(c); err != nil { // a freeze waits for all that follows
		return v.whyNoSnapshot(err)
	}
	defer v.adm.done(c)
	err := v.inGate(func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.want = t
		return nil
	})
	for range 2 { // the commit that takes it, and the one that names it
		if err == nil {
			err = v.commitAll()
		}
	}
	if err != nil {
		return v.syncErr(err)
	}
	return nil
}

// holdHead makes a snapshot of the head that is gone when end is called. It is
// marked as deleted from the start: after a crash the next mount frees it. On a
// volume that is not written it is the newest root.
func (v *Volume) holdHead() (x layout.Snapshot, end func(), err error) {
	if v.ring == nil {
		if v.replayed {
			return x, nil, fmt.Errorf("%w: its log waits for replay", vfs.ErrReadOnly)
		}
		return layout.Snapshot{Generation: v.root.Generation, Tree: v.root.Trees[layout.TreeFS]}, func() {}, nil
	}
	s := &v.snap
	s.manage.Lock()
	defer s.manage.Unlock()
	if err := v.writable(); err != nil {
		return x, nil, err
	}
	t := &snapshot{name: "head", passing: true, holds: 1}
	if err := v.takeSnapshot(t); err != nil {
		return x, nil, err
	}
	if x, err = v.readSnapshot(t); err != nil {
		return x, nil, err // the next mount frees it
	}
	return x, func() {
		v.unhold(t)
		s.manage.Lock()
		defer s.manage.Unlock()
		_ = v.bury(t, func() error { // else the next mount frees it
			v.snap.forget(t)
			return nil
		})
	}, nil
}

func (t *snapshot) info() SnapshotInfo {
	return SnapshotInfo{Name: t.name, ID: t.id, Generation: t.gen, Created: time.Unix(t.created.Sec, int64(t.created.Nsec)),
		ReferencedBytes: int64(t.sectors) * layout.SectorBytes, Inodes: t.inodes, KeyEpoch: t.epoch, Open: t.views+t.holds > 0}
}

// Snapshots lists the snapshots, the oldest first. It reads the sums of the
// dead lists, not the lists.
func (v *Volume) Snapshots() ([]SnapshotInfo, error) {
	for tries := 0; ; tries++ { // a commit between moves runs from memory to the lists
		v.gate.RLock()
		gen := v.gen
		v.gate.RUnlock()
		infos, err := v.listSnapshots()
		v.gate.RLock()
		same := gen == v.gen
		v.gate.RUnlock()
		if err != nil || same || tries == 5 {
			return infos, err
		}
	}
}

func (v *Volume) listSnapshots() ([]SnapshotInfo, error) {
	s := &v.snap
	s.mu.Lock()
	var infos []SnapshotInfo
	var ids []uint32 // of live
	for _, t := range s.live {
		ids = append(ids, t.id)
		if s.byName[t.name] == t { // CreateSnapshot has returned
			infos = append(infos, t.info())
		}
	}
	for _, t := range s.dying {
		i := t.info()
		i.Deleting = true
		infos = append(infos, i)
	}
	pending := slices.Clone(s.pending)
	from, to := uint64(0), uint64(0) // points of lists that do not count
	if a := s.abandoned; a != nil && !a.Lists {
		from, to = uint64(a.Snapshot), a.point
	}
	s.mu.Unlock()
	unique := map[uint32]uint64{}
	add := func(point uint64, bound uint32, sectors uint64) {
		if point >= from && point < to {
			return
		}
		i := sort.Search(len(ids), func(i int) bool { return ids[i] > bound })
		if i < len(ids) && uint64(ids[i]) <= point && (i+1 == len(ids) || uint64(ids[i+1]) > point) {
			unique[ids[i]] += sectors
		}
	}
	for _, d := range pending { // nothing is dropped under a point that a rollback left
		add(uint64(d.point), d.Bound, uint64(d.Count))
	}
	if err := v.deadSums(add); err != nil {
		return nil, txn.Wrap(err)
	}
	for i := range infos {
		if !infos[i].Deleting {
			infos[i].UniqueBytes = int64(unique[infos[i].ID]) * layout.SectorBytes
		}
	}
	slices.SortFunc(infos, func(a, b SnapshotInfo) int { return cmp.Compare(a.ID, b.ID) })
	return infos, nil
}

// deadSums calls fn for each sum of the dead lists.
func (v *Volume) deadSums(fn func(point uint64, bound uint32, sectors uint64)) error {
	for point := uint64(1); ; point++ {
		next := uint64(0)
		err := v.snaps.Scan(layout.Key{Obj: point}, layout.Key{Obj: ^uint64(0), Type: 0xff, Sub: ^uint64(0)}, func(k layout.Key, _ []byte) bool {
			next = k.Obj
			return false
		})
		if err != nil || next == 0 {
			return err
		}
		point = next
		var derr error
		err = v.snaps.Scan(layout.Key{Obj: point, Type: layout.KeyDeadSum}, layout.Key{Obj: point, Type: layout.KeyDeadSum, Sub: ^uint64(0)},
			func(k layout.Key, val []byte) bool {
				var sum layout.DeadSum
				if sum, derr = layout.DecodeDeadSum(val); derr == nil {
					fn(point, uint32(k.Sub), sum.Sectors)
				}
				return derr == nil
			})
		if err = cmp.Or(err, derr); err != nil {
			return err
		}
	}
}

// DeleteSnapshot deletes a snapshot; that is durable when the call returns. What
// only it held is freed in the background, and goes on at the next mount if need
// be: WaitFreed waits for it.
func (v *Volume) DeleteSnapshot(name string) error {
	s := &v.snap
	s.manage.Lock()
	defer s.manage.Unlock()
	if err := v.writable(); err != nil {
		return err
	}
	s.mu.Lock()
	t := s.byName[name]
	inUse := t != nil && t.views+t.holds > 0
	if t != nil && !inUse {
		t.going = true
	}
	s.mu.Unlock()
	switch {
	case t == nil:
		return fmt.Errorf("%w: %.200q", ErrNoSnapshot, name)
	case inUse:
		return fmt.Errorf("%w: %s", ErrSnapshotInUse, name)
	}
	err := v.bury(t, func() error { return v.condemn(t) })
	if err != nil {
		s.mu.Lock()
		t.going = false
		s.mu.Unlock()
	}
	return err
}

// bury has a snapshot freed that mark, inside the gate, takes from the live
// ones. The caller holds manage.
func (v *Volume) bury(t *snapshot, mark func() error) error {
	// Until the lists that a rollback left are gone, none of its points may be
	// used again.
	if err := v.waitAbandoned(); err != nil {
		return err
	}
	c := cost{quads: opQuads, urgent: true, snaps: true}
	if err := v.admit(c); err != nil {
		return err
	}
	defer v.adm.done(c)
	err := v.inGate(mark)
	if err == nil {
		err = v.commitAll()
	}
	if err != nil {
		return v.syncErr(err)
	}
	v.rot.kick()
	// Only now: what the same generation dropped before is in the lists.
	s := &v.snap
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dying = append(s.dying, t)
	s.stalled = nil
	s.cond.Broadcast()
	return nil
}

// condemn marks a snapshot as deleted. Inside the gate.
func (v *Volume) condemn(t *snapshot) error {
	err := v.snaps.Update(func(w *tree.Writer) error {
		val, ok, err := w.Get(items.SnapshotKey(t.id))
		if err == nil && !ok {
			err = fmt.Errorf("%w: snapshot %q is missing", layout.ErrCorrupt, t.name)
		}
		if err != nil {
			return err
		}
		x, err := layout.DecodeSnapshot(val)
		if err != nil {
			return err
		}
		x.Deleting = true
		return w.Put(items.SnapshotKey(t.id), x.Append(nil))
	})
	if err != nil {
		return err
	}
	v.snap.forget(t)
	return nil
}

// forget removes a snapshot from those that hold what the head drops. Inside the gate.
func (s *snapshots) forget(t *snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !t.passing {
		delete(s.byName, t.name)
	}
	i := slices.Index(s.live, t)
	s.live = slices.Delete(s.live, i, i+1)
	if i == len(s.live) && i > 0 { // the newest: its point is not used any more
		s.state.Point, s.dirty = s.live[i-1].id, true
	}
	s.changed()
}

// WaitFreed waits until all that deleted snapshots and rollbacks left is freed
// (usable one commit later). An error says why that does not go on.
func (v *Volume) WaitFreed() error {
	return v.snapWait(func(s *snapshots) bool { return len(s.dying) > 0 || s.abandoned != nil })
}

func (v *Volume) waitAbandoned() error {
	return v.snapWait(func(s *snapshots) bool { return s.abandoned != nil })
}

func (v *Volume) snapWait(busy func(s *snapshots) bool) error {
	s := &v.snap
	s.mu.Lock()
	defer s.mu.Unlock()
	for busy(s) {
		switch {
		case s.stalled != nil:
			return txn.Wrap(s.stalled)
		case v.Failed() != nil:
			return v.writable()
		case s.stop || v.ring == nil:
			return vfs.ErrClosed
		}
		s.cond.Wait()
	}
	return nil
}

// startSnapReaper starts what frees deleted snapshots, and what was left of it.
func (v *Volume) startSnapReaper() {
	s := &v.snap
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		f := &freer{v: v}
		for {
			s.mu.Lock()
			for !s.stop && (s.stalled != nil || len(s.dying) == 0 && s.abandoned == nil) && !(v.worn() && !s.blunt) {
				s.cond.Wait()
			}
			if s.stop {
				s.cond.Broadcast()
				s.mu.Unlock()
				return
			}
			if s.stalled != nil || len(s.dying) == 0 && s.abandoned == nil {
				s.passing = true
				s.mu.Unlock()
				v.restampAll()
				s.mu.Lock()
				s.passing = false
				s.mu.Unlock()
				v.adm.wake()
				continue
			}
			var t *snapshot
			a := s.abandoned
			if a == nil {
				t = s.dying[0]
			}
			s.mu.Unlock()
			done, err := v.freeStep(f, t, a)
			if err == nil && !done {
				continue
			}
			f.point = 0
			s.mu.Lock()
			switch {
			case err != nil:
				s.stalled = err
				if v.opts.Log != nil && v.Failed() == nil && !s.stop {
					v.opts.Log.Warn("what a deleted snapshot held could not be freed; the next mount tries again", "volume", v.id.String(), "error", err)
				}
			case a != nil:
				s.abandoned = nil
				v.rot.kick()
			default:
				s.dying = s.dying[1:]
			}
			s.cond.Broadcast()
			s.mu.Unlock()
		}
	}()
}

func (v *Volume) stopSnapReaper() {
	s := &v.snap
	s.mu.Lock()
	s.stop = true
	s.cond.Broadcast()
	s.mu.Unlock()
	<-s.done
}

// freeStep frees a bounded part of what a rollback or a deleted snapshot left,
// the last step its item.
func (v *Volume) freeStep(f *freer, t *snapshot, a *abandoned) (done bool, err error) {
	if a != nil {
		if err := v.warmAbandoned(a); err != nil {
			return false, txn.Wrap(err)
		}
	}
	runs, pages := v.freeBudget()
	c := cost{quads: freeQuads + pages, urgent: true, snaps: true}
	if err := v.admit(c); err != nil {
		return false, err
	}
	defer v.adm.done(c)
	v.gate.RLock()
	defer v.gate.RUnlock()
	if err := v.writable(); err != nil {
		return false, err
	}
	f.begin(runs)
	err = v.snaps.Update(func(w *tree.Writer) error {
		f.w = w
		if a != nil {
			done, err = f.passAbandoned(a)
			return err
		}
		v.snap.mu.Lock()
		only := v.snap.only(t.id)
		v.snap.mu.Unlock()
		if done, err = f.pass(only); err == nil && done {
			f.changed = true
			_, err = w.Delete(items.SnapshotKey(t.id))
		}
		return err
	})
	f.w = nil
	if err != nil {
		if err = txn.Wrap(err); f.changed { // half a step must not be committed
			v.fail(err)
		}
		return false, err
	}
	if f.changed {
		v.snap.mu.Lock()
		v.snap.state.DeadSectors -= min(f.dead, v.snap.state.DeadSectors)
		v.snap.dirty = true
		v.snap.mu.Unlock()
		v.adm.changed()
	}
	return done, nil
}

// oldestEpoch is the oldest key epoch that a head with that state of the
// rotation may need, 0 if all that there are.
func oldestEpoch(r *layout.Rotation) uint32 {
	if r.Target != 0 && int(r.Tree) >= layout.Trees-1 && !r.Again {
		return r.Target // the walk has ended: only snapshots need older ones
	}
	return 0
}

// snapshotEpochs lists what needs older key epochs than the head: snapshots, and
// what a rollback left, as its pages are read to free them.
func (v *Volume) snapshotEpochs() (list []snapshotEpoch) {
	s := &v.snap
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.live {
		list = append(list, snapshotEpoch{t.name, t.epoch})
	}
	if s.abandoned != nil {
		list = append(list, snapshotEpoch{"(what a rollback left)", 0})
	}
	return list
}
