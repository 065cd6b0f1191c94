package snapshot_test

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/sealvol/sealvol/pkg/snapshot/diff"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/snapshot/stored"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/volumetest"
)

// changeKey is a change without ranges.
type changeKey struct {
	kind      volume.ChangeKind
	path, old string
}

// changeSet collects changes, with the ranges of modified files.
type changeSet map[changeKey][]volume.ByteRange

func (c changeSet) add(x volume.Change) error {
	k := changeKey{x.Kind, x.Path, x.OldPath}
	c[k] = append(c[k], x.Ranges...)
	return nil
}

// sameDiff compares the differences of two stored snapshots with those of the local snapshots. The
// volume does not know that data was written that is the same as before, stored snapshots do.
func (r *historyRig) sameDiff(from, to storedState) {
	r.t.Helper()
	want, got := changeSet{}, changeSet{}
	err := r.h.V.Diff(from.name, to.name, volume.DiffOptions{Ranges: true}, want.add)
	if errors.Is(err, volume.ErrNoSnapshot) { // the volume was rolled back beyond it
		return
	}
	r.ok(err)
	a, b := r.read(from.rep.S), r.read(to.rep.S)
	r.ok(diff.Snapshots(r.t.Context(), a.DiffSource(), b.DiffSource(), diff.Options{Ranges: true}, got.add))
	for k, ranges := range got {
		if k.kind == volume.Changed {
			if _, ok := want[changeKey{kind: volume.Modified, path: k.path}]; ok {
				continue
			}
		}
		local, ok := want[k]
		if !ok {
			r.t.Errorf("%v %s %s: only in the stored snapshots", k.kind, k.path, k.old)
			continue
		}
		if !within(local, ranges, uint64(a.Body.ChunkBytes)) {
			r.t.Errorf("%s: the stored snapshots differ in %v, the local ones in %v", k.path, ranges, local)
		}
	}
	for k := range want {
		_, ok := got[k]
		_, changed := got[changeKey{kind: volume.Changed, path: k.path}]
		// Of attributes, a volume also has some that only concern itself, such as that there once was
		// an extended attribute.
		if !ok && !(k.kind == volume.Modified && changed || (k.kind == volume.Modified || k.kind == volume.Changed) && r.sameContent(a, b, k.path)) {
			r.t.Errorf("%v %s %s: only in the local snapshots", k.kind, k.path, k.old)
		}
	}
	if r.t.Failed() {
		r.t.Logf("local: %v", slices.Collect(maps.Keys(want)))
		r.t.FailNow()
	}
}

// sameContent reports whether nothing of a file differs: neither content nor attributes.
func (r *historyRig) sameContent(a, b *stored.Snapshot, path string) bool {
	same := true
	r.ok(diff.Snapshots(r.t.Context(), a.DiffSource(), b.DiffSource(), diff.Options{}, func(x volume.Change) error {
		// Other kinds may be about another inode that had the name.
		same = same && (x.Path != path || x.Kind != volume.Modified && x.Kind != volume.Changed)
		return nil
	}))
	return same
}

// within reports whether each chunk of the ranges has something in common with one of local, which
// is sorted.
func within(local, ranges []volume.ByteRange, chunk uint64) bool {
	for _, r := range ranges {
		for off := r.Off - r.Off%chunk; off < r.Off+r.Len; {
			i, _ := slices.BinarySearchFunc(local, off+1, func(l volume.ByteRange, off uint64) int { return cmp.Compare(l.Off+l.Len, off) })
			if i == len(local) || local[i].Off >= off+chunk {
				return false
			}
			end := local[i].Off + local[i].Len
			off = end + (chunk-end%chunk)%chunk
		}
	}
	return true
}

// TestDiffUnrelated: snapshots of different volumes are not compared.
func TestDiffUnrelated(t *testing.T) {
	r := newHistoryRig(t, volumetest.NewHistory(t, 1, 128<<20), snapstore.Options{})
	a := r.put("", r.h.Snapshot(), r.options(nil))
	r.h.Close()
	r.h = volumetest.NewHistory(t, 2, 128<<20)
	b := r.put("", r.h.Snapshot(), r.options(nil))
	r.h.Close()
	none := func(volume.Change) error { return nil }
	if err := diff.Snapshots(t.Context(), r.read(a.S).DiffSource(), r.read(b.S).DiffSource(), diff.Options{}, none); !errors.Is(err, diff.ErrUnrelated) {
		t.Error(err)
	}
}
