package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealvol/sealvol/pkg/mounter/worker"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
)

// errOtherState refuses to continue a snapshot that is whole, of another state.
var errOtherState = errors.New("the store has this snapshot, but of another state of the volume: choose a new identity")

// again returns the result of an earlier worker that had stored the snapshot, and whose caller had
// not heard of it. It is nil if the snapshot is not whole.
func again(ctx context.Context, e *worker.Env, store *snapstore.Store, s format.ID, to *pinned.State) (*Result, error) {
	h, sealed, err := commit.Whole(ctx, store.Objects(), s)
	if errors.Is(err, commit.ErrNoBase) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := openBase(e, store)(ctx, h, sealed)
	if errors.Is(err, manifest.ErrNoSlot) { // only recovery keys: create finds out
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if b.StateRoot != to.Info().R {
		return nil, fmt.Errorf("snapshot %s: %w", s, errOtherState)
	}
	sum := format.SumOf(sealed)
	r := &Result{Handle: format.Handle{Store: store.ID(), S: s, Sealed: &sum}.String(), Created: time.Unix(0, h.Created), Files: b.Files, Dirs: b.Dirs,
		Logical: b.LogicalBytes, Content: fmt.Sprintf("%x", b.Content)}
	if h.Parent != (format.ID{}) {
		r.Base = h.Parent.String()
	}
	return r, nil
}
