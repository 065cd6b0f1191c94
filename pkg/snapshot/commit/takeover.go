package commit

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// TakeOver returns the packs and pages of the predecessors that are there and
// will stay, and their lengths (W3). What a pruner has condemned counts as
// absent, since it may be deleted at any time. The order matters: the records
// are read after the lease was put, and before the objects are listed.
func (w *Writer) TakeOver(ctx context.Context) (map[format.Name]int64, error) {
	condemned, err := readCondemned(ctx, w.store)
	if err != nil {
		return nil, fmt.Errorf("take over what an earlier attempt stored: %w", err)
	}
	found := map[format.Name]int64{}
	for _, attempt := range w.opts.Predecessors {
		for _, c := range []format.Class{format.Pack, format.Page} {
			for info, err := range w.store.List(ctx, c.Prefix()+attempt.String()+"/", "") {
				if err != nil {
					return nil, fmt.Errorf("take over what an earlier attempt stored: %w", err)
				}
				if n, err := format.ParseName(info.Key); err == nil && !condemned[n] {
					found[n] = info.Bytes
				}
			}
		}
	}
	return found, nil
}

func readCondemned(ctx context.Context, store chunkstore.Store) (map[format.Name]bool, error) {
	all := map[format.Name]bool{}
	for info, err := range store.List(ctx, format.GCPrefix, "") {
		if err != nil {
			return nil, err
		}
		b, err := store.Get(ctx, info.Key, nil, format.MaxRecordBytes)
		if errors.Is(err, chunkstore.ErrNotFound) {
			continue // all that it named is gone, or belongs to a whole snapshot
		}
		if err != nil {
			return nil, err
		}
		names, err := format.DecodeCondemned(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", info.Key, err)
		}
		for _, n := range names {
			all[n] = true
		}
	}
	return all, nil
}
