package volume

import (
	"cmp"
	"slices"
	"sort"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// SnapshotInfo describes a local snapshot.
type SnapshotInfo struct {
	Name       string
	ID         uint32 // never used again
	Generation uint64 // at whose end it was taken
	Created    time.Time
	// UniqueBytes is the most that deleting it would free. Data shared by reflinks counts, too.
	UniqueBytes int64
	// ReferencedBytes is what files and metadata took when it was made, including maps of free
	// space.
	ReferencedBytes int64
	Inodes          uint64
	// KeyEpoch is the oldest key epoch of the volume when it was made: its data may need it.
	KeyEpoch uint32
	// Deleting means that it is deleted, but not all of its space is free yet.
	Deleting bool
	Open     bool // it is being read
}

func (t *snapshot) info() SnapshotInfo {
	return SnapshotInfo{Name: t.name, ID: t.id, Generation: t.gen, Created: time.Unix(t.created.Sec, int64(t.created.Nsec)),
		ReferencedBytes: int64(t.blocks) * layout.BlockBytes, Inodes: t.inodes, KeyEpoch: t.epoch, Open: t.views+t.holds > 0}
}

// Snapshots lists the snapshots, the oldest first. It reads the sums of the dead lists, not the
// lists.
func (v *Volume) Snapshots() ([]SnapshotInfo, error) {
	for tries := 0; ; tries++ { // a commit in between moves runs from memory to the lists
		v.gate.RLock()
		gen := v.gen
		v.gate.RUnlock()
		infos, err := v.snap.list()
		v.gate.RLock()
		same := gen == v.gen
		v.gate.RUnlock()
		if err != nil || same || tries == 5 {
			return infos, err
		}
	}
}

func (s *snapshots) list() ([]SnapshotInfo, error) {
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
	from, to := uint64(0), uint64(0) // points whose lists do not count
	if a := s.abandoned; a != nil && !a.Lists {
		from, to = uint64(a.Snapshot), a.point
	}
	s.mu.Unlock()
	unique := map[uint32]uint64{}
	add := func(point uint64, bound uint32, blocks uint64) {
		if point >= from && point < to {
			return
		}
		i := sort.Search(len(ids), func(i int) bool { return ids[i] > bound })
		if i < len(ids) && uint64(ids[i]) <= point && (i+1 == len(ids) || uint64(ids[i+1]) > point) {
			unique[ids[i]] += blocks
		}
	}
	for _, d := range pending { // the head drops nothing under points that a rollback left
		add(uint64(d.point), d.Bound, uint64(d.Count))
	}
	if err := s.deadSums(add); err != nil {
		return nil, txn.Wrap(err)
	}
	for i := range infos {
		if !infos[i].Deleting {
			infos[i].UniqueBytes = int64(unique[infos[i].ID]) * layout.BlockBytes
		}
	}
	slices.SortFunc(infos, func(a, b SnapshotInfo) int { return cmp.Compare(a.ID, b.ID) })
	return infos, nil
}

// deadSums calls fn for each sum of the dead lists.
func (s *snapshots) deadSums(fn func(point uint64, bound uint32, blocks uint64)) error {
	for point := uint64(1); ; point++ {
		next := uint64(0)
		err := s.tree.Scan(layout.Key{Obj: point}, layout.Key{Obj: ^uint64(0), Type: 0xff, Sub: ^uint64(0)}, func(k layout.Key, _ []byte) bool {
			next = k.Obj
			return false
		})
		if err != nil || next == 0 {
			return err
		}
		point = next
		var derr error
		err = s.tree.Scan(layout.Key{Obj: point, Type: layout.KeyDeadSum}, layout.Key{Obj: point, Type: layout.KeyDeadSum, Sub: ^uint64(0)},
			func(k layout.Key, val []byte) bool {
				var sum layout.DeadSum
				if sum, derr = layout.DecodeDeadSum(val); derr == nil {
					fn(point, uint32(k.Sub), sum.Blocks)
				}
				return derr == nil
			})
		if err = cmp.Or(err, derr); err != nil {
			return err
		}
	}
}
