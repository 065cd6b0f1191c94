package volume

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/volume/internal/diff"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// Types that Diff returns.
type (
	// ChangeKind is the kind of change of a path between two states of a volume.
	ChangeKind = diff.Kind
	// Change is one difference that Diff finds.
	Change = diff.Change
	// ByteRange is the bytes [Off, Off+Len) of a file.
	ByteRange = diff.ByteRange
	// DiffOptions configures Diff.
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

// Diff compares snapshot to, or the head if to is "", with snapshot from. It calls fn for each
// change, in no particular order. If fn returns an error, Diff stops and returns it. Closing the
// volume stops Diff after the current call of fn. Time and memory depend on the size of the
// differences, not of the volume. Only if names of inodes were written by an earlier version of the
// format, one pass over all names is needed.
func (v *Volume) Diff(from, to string, opts DiffOptions, fn func(Change) error) error {
	ctx, leave, err := v.background.begin(context.Background(), fmt.Sprintf("diff %d", diffs.Add(1))) // several Diffs may run at a time
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

// diffs numbers calls of Diff.
var diffs atomic.Uint64

// hold prevents the deletion of a snapshot until end is called.
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
