package volume

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// snapshots owns the state of a volume's snapshots. The rest is in tree 3.
//
// A snapshot is the head's tree as of the end of a generation g. The commit that ends g takes it:
// from then on, what the head drops of it goes to a dead list. The address of its tree is known
// once g is durable, so the commit of g+1 names it in tree 3. A crash before that leaves no
// snapshot and no trace.
type snapshots struct {
	v *Volume

	manage sync.Mutex // one change of snapshots at a time; comes before all other locks

	newest      atomic.Uint64 // generation of the newest in live, 0: none; rises with the gate held exclusively, may fall while others are in it
	pendingRuns atomic.Int64  // len(pending)
	sumPages    atomic.Int64  // bound on the pages that hold the sums of one dead list
	places      atomic.Int64  // freePlaces, lower in tests

	mu      sync.Mutex // a leaf lock
	cond    sync.Cond  // signals changes of dying or abandoned, or that freeing has stopped
	state   layout.SnapState
	dirty   bool        // state is newer than the tree
	live    []*snapshot // ascending ids and generations
	byName  map[string]*snapshot
	dying   []*snapshot // the space that only they held is being freed
	pending []deadRun   // of the open generation
	want    *snapshot   // to be taken at the end of the open generation
	taken   *snapshot   // by the last freeze of a generation; the next commit names it

	abandoned *abandoned // what the last rollback left that is not freed yet

	stop          bool
	stalled       error // why freeing has stopped
	restampFailed bool  // restamp has failed; the next mount tries again
	passing       bool  // restamp is running
	done          chan struct{}

	tree *tree.Tree // snapshots and dead lists
}

// snapshot is a snapshot in memory. All fields but views, holds and going are constant once it has
// an ID.
type snapshot struct {
	id      uint32
	gen     uint64
	created vfs.Timespec
	name    string
	blocks  uint64 // referenced when it was made
	inodes  uint64
	epoch   uint32
	passing bool   // temporary, and flagged as deleted in the tree
	dead    uint64 // blocks in dead lists when it was taken
	// Counts of reserved ranges when it was taken.
	promised, ranges uint64
	views            int  // by OpenSnapshot; guarded by mu
	holds            int  // by Diff; guarded by mu
	going            bool // DeleteSnapshot is running, so no new user is allowed; guarded by mu
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

// changed updates what is derived from live. The caller holds mu.
func (s *snapshots) changed() {
	s.sumPages.Store(int64(len(s.live))/200 + 2)
	if n := len(s.live); n > 0 {
		s.newest.Store(s.live[n-1].gen)
	} else {
		s.newest.Store(0)
	}
}

// load reads the snapshots of the newest root.
func (s *snapshots) load() error {
	v := s.v
	var derr error
	bad := func(format string, args ...any) bool {
		derr = fmt.Errorf("%w: "+format, append([]any{layout.ErrCorrupt}, args...)...)
		return false
	}
	last := uint64(0)
	err := s.tree.Scan(layout.Key{}, layout.Key{Type: 0xff, Sub: ^uint64(0)}, func(k layout.Key, val []byte) bool {
		switch {
		case k.Type == layout.KeySnapState && k.Sub == 0:
			s.state, derr = layout.DecodeSnapState(val)
		case k.Type == layout.KeySnapshot && k.Sub > 0 && k.Sub < uint64(s.state.NextID):
			var x layout.Snapshot
			if x, derr = layout.DecodeSnapshot(val); derr != nil {
				break
			}
			if x.Generation <= last || x.Generation >= v.gen {
				return bad("snapshot %q has generation %d, not above its predecessor's %d", x.Name, x.Generation, last)
			}
			last = x.Generation
			t := &snapshot{id: uint32(k.Sub), gen: x.Generation, created: x.Created, name: x.Name, blocks: x.Blocks, inodes: x.Inodes, epoch: x.Epoch}
			if x.Deleting {
				s.dying = append(s.dying, t)
			} else if s.byName[x.Name] != nil {
				return bad("duplicate snapshot name %q", x.Name)
			} else {
				s.live = append(s.live, t)
				s.byName[x.Name] = t
			}
		case k.Type == layout.KeyAbandoned && s.abandoned == nil:
			s.abandoned = &abandoned{point: k.Sub}
			s.abandoned.Abandoned, derr = layout.DecodeAbandoned(val)
		default:
			return bad("unexpected item %v in tree %d", k, layout.TreeSnapshots)
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
	if n := s.newest.Load(); n != v.durable.root.NewestSnapshot {
		return fmt.Errorf("%w: the newest snapshot has generation %d in the root, but %d in tree 3", layout.ErrCorrupt, v.durable.root.NewestSnapshot, n)
	}
	return nil
}

// take is called at the end of a generation. If a snapshot is wanted, it takes that. epoch is the
// oldest that the head needs, if known. It returns the newest snapshot that the root's tree 3
// names.
func (s *snapshots) take(gen, inodes uint64, epoch uint32, res *reservedRanges) (newest uint64) {
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
	t.id, t.gen, t.inodes, t.dead = s.state.NextID, gen, inodes, s.state.DeadBlocks
	s.state.NextID++
	s.state.Point, s.dirty = t.id, true
	s.live = append(s.live, t)
	s.changed()
	res.pin(gen)
	t.promised, t.ranges = res.stored().Promised, res.stored().Ranges
	return newest
}

// nameSnapshot stores the item of a snapshot, one generation after the snapshot's.
func (s *snapshots) nameSnapshot(w *tree.Writer, t *snapshot) error {
	v := s.v
	v.durable.mu.Lock()
	r := v.durable.root
	v.durable.mu.Unlock()
	if r.Generation != t.gen {
		return fmt.Errorf("%w: snapshot %q has generation %d, but the root has %d", layout.ErrCorrupt, t.name, t.gen, r.Generation)
	}
	used := r.DeviceBlocks - r.DataStart() - r.FreeBlocks - t.dead
	for i := range r.FreeLists {
		used -= r.FreeLists[i].Blocks
	}
	t.blocks = used
	x := layout.Snapshot{Generation: t.gen, Created: t.created, Tree: r.Trees[layout.TreeFS], Inodes: t.inodes, Blocks: used, Epoch: t.epoch, Deleting: t.passing,
		Promised: t.promised, Ranges: t.ranges, Name: t.name}
	return w.Put(items.SnapshotKey(t.id), x.Append(nil))
}

// CreateSnapshot makes a snapshot of everything acknowledged before the call. It is durable when
// the call returns.
func (v *Volume) CreateSnapshot(name string) (SnapshotInfo, error) {
	if !layout.ValidSnapshotName(name) {
		return SnapshotInfo{}, fmt.Errorf("%w: %.200q; use 1 to %d letters, digits and . _ - : + @, and begin with a letter, a digit or _", ErrSnapshotName, name, layout.MaxSnapshotName)
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
	if err := v.snap.takeNow(t); err != nil {
		return SnapshotInfo{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byName[name] = t
	return t.info(), nil
}

// takeNow makes a snapshot. The caller holds manage.
func (s *snapshots) takeNow(t *snapshot) error {
	v := s.v
	t.created = vfs.Now()
	s.mu.Lock()
	full := len(s.live)+len(s.dying) >= layout.MaxSnapshots || s.state.NextID == 1<<32-1
	s.mu.Unlock()
	if full {
		return fmt.Errorf("%w: %d, including those that are being deleted", ErrTooManySnapshots, layout.MaxSnapshots)
	}
	// Without a reservation, because a change of keys may be waiting for operations to end.
	if err := v.keys.requireFeature(layout.FeatureSnapshots); err != nil {
		return err
	}
	_, epochs := v.Keys()
	t.epoch = epochs[0]
	c := reservation{nodes: opNodes, pins: 1}
	if err := v.adm.reserve(c); err != nil { // a freeze waits for all that follows
		return v.ranges.whyNoSnapshot(err)
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
			err = v.com.commitAll()
		}
	}
	if err != nil {
		return v.sync.syncErr(err)
	}
	return nil
}

// holdHead makes a temporary snapshot of the head, until end is called. It is flagged as deleted
// from the start, so that the next mount frees it after a crash. If the volume is read-only, it is
// the newest root.
func (s *snapshots) holdHead() (x layout.Snapshot, end func(), err error) {
	v := s.v
	if v.ring == nil {
		if v.life.replayed {
			return x, nil, fmt.Errorf("%w: its log has not been replayed; mount the volume read-write first", vfs.ErrReadOnly)
		}
		return layout.Snapshot{Generation: v.durable.root.Generation, Tree: v.durable.root.Trees[layout.TreeFS]}, func() {}, nil
	}
	s.manage.Lock()
	defer s.manage.Unlock()
	if err := v.writable(); err != nil {
		return x, nil, err
	}
	t := &snapshot{name: "head", passing: true, holds: 1}
	if err := s.takeNow(t); err != nil {
		return x, nil, err
	}
	if x, err = s.read(t); err != nil {
		return x, nil, err // the next mount frees it
	}
	return x, func() {
		s.unhold(t)
		s.manage.Lock()
		defer s.manage.Unlock()
		_ = s.deleteMarked(t, func() error { // on an error, the next mount frees it
			s.forget(t)
			return nil
		})
	}, nil
}
