package volume

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/volume/internal/diff"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// What Diff tells.
type (
	// ChangeKind is what happened to a path between two states of a volume.
	ChangeKind = diff.Kind
	// Change is one of the differences that Diff finds.
	Change = diff.Change
	// ByteRange is bytes [Off, Off+Len) of a file.
	ByteRange = diff.ByteRange
	// DiffOptions for Diff.
	DiffOptions = diff.Options
)

// Kinds of changes.
const (
	Created  = diff.Created
	Removed  = diff.Removed
	Renamed  = diff.Renamed
	Linked   = diff.Linked
	Unlinked = diff.Unlinked
	Modified = diff.Modified
	Changed  = diff.Changed
)

// Diff tells what is different in snapshot to against snapshot from, or in the
// head if to is "". It calls fn for one change after another, in no order that
// means anything, until fn returns an error, which is returned. Closing the
// volume ends it, once fn has returned. Time and memory
// are bounded by what is different, not by what there is; only names of inodes
// that an earlier version of the format wrote need one pass over all names.
func (v *Volume) Diff(from, to string, opts DiffOptions, fn func(Change) error) error {
	ctx, leave, err := v.background.begin(context.Background(), fmt.Sprintf("diff %d", diffs.Add(1))) // any number
	if err != nil {
		return err
	}
	defer leave()
	a, end, err := v.snap.hold(from)
	if err != nil {
		return err
	}
	defer end()
	var b layout.Snapshot
	if to == "" {
		b, end, err = v.snap.holdHead()
	} else {
		b, end, err = v.snap.hold(to)
	}
	if err != nil {
		return err
	}
	defer end()
	return txn.Wrap(diff.Snapshots(ctx, v.cache, &a, &b, opts, fn))
}

// diffs counts calls of Diff, to tell them apart.
var diffs atomic.Uint64

// hold keeps a snapshot from being deleted until end.
func (s *snapshots) hold(name string) (x layout.Snapshot, end func(), err error) {
	t, err := s.find(name, func(t *snapshot) { t.holds++ })
	if err != nil {
		return x, nil, err
	}
	end = func() { s.unhold(t) }
	if x, err = s.read(t); err != nil {
		end()
	}
	return x, end, err
}
