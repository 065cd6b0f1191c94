package commit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// Forget puts a tomb on a whole snapshot: it is listed no more, and a pruner
// deletes it when its time to be undeleted is over. A snapshot that has a tomb
// gets no second one; ErrNoBase if its card is not real. What else is damaged
// does not matter: nothing is pruned until such a snapshot is forgotten.
func Forget(ctx context.Context, store chunkstore.Store, s format.ID, who string) error {
	st, err := StatusOf(ctx, store, s)
	if err != nil || len(st.Tombs) > 0 {
		return err
	}
	if err := isReal(ctx, store, s); err != nil {
		return fmt.Errorf("forget: %w", err)
	}
	tomb, err := (&format.Tomb{When: time.Now().UnixNano(), Who: who}).Encode()
	if err != nil {
		return err
	}
	_, err = store.Put(ctx, format.TombKey(s, format.NewID()), tomb)
	return err
}

// Undelete takes back Forget. When it returns nil no pruner deletes the snapshot
// because of the tombs that it had. ErrTooLate, ErrNoBase.
func Undelete(ctx context.Context, store chunkstore.Store, s format.ID) error {
	st, err := StatusOf(ctx, store, s)
	if err != nil {
		return err
	}
	for _, t := range st.Tombs {
		key := format.VerdictKey(s, t)
		created, err := store.Put(ctx, key, []byte(format.VerdictKeep))
		if err == nil && !created {
			var b []byte
			b, err = store.Get(ctx, key, nil, 64)
			void := errors.Is(err, chunkstore.ErrNotFound) // it is removed with all else of a void snapshot
			if err == nil {
				if void, err = format.DecodeVerdict(b); err != nil {
					err = fmt.Errorf("%s: %w", key, err)
				}
			}
			if void {
				return fmt.Errorf("snapshot %s: %w", s, ErrTooLate)
			}
		}
		if err == nil {
			err = store.Delete(ctx, format.TombKey(s, t))
		}
		if err != nil {
			return fmt.Errorf("undelete: %w", err)
		}
	}
	// Last: verdicts of a void snapshot are removed, its card never is.
	if err := isReal(ctx, store, s); errors.Is(err, ErrNoBase) && len(st.Tombs) > 0 {
		return fmt.Errorf("snapshot %s: %w", s, ErrTooLate)
	} else if err != nil {
		return fmt.Errorf("undelete: %w", err)
	}
	return nil
}

// isReal returns nil if the card is real, whatever is in it, or ErrNoBase.
func isReal(ctx context.Context, store chunkstore.Store, s format.ID) error {
	_, err := realCard(ctx, store, s)
	if errors.Is(err, chunkstore.ErrTooLarge) {
		return nil
	}
	return err
}

// Status is what a listing says of a snapshot.
type Status struct {
	Card, Manifest bool
	Tombs          []format.ID // that no verdict KEEP belongs to
}

// StatusOf looks at all parts of a snapshot with one listing, and at the
// verdicts, which are rare.
func StatusOf(ctx context.Context, store chunkstore.Store, s format.ID) (st Status, err error) {
	verdicts := map[format.ID]bool{}
	var tombs []format.ID
	for info, err := range store.List(ctx, format.SnapKey(s, ""), "") {
		if err != nil {
			return st, err
		}
		part := strings.TrimPrefix(info.Key, format.SnapKey(s, ""))
		switch t, verdict, ok := format.ParseTomb(part); {
		case ok && verdict:
			verdicts[t] = true
		case ok:
			tombs = append(tombs, t)
		}
		st.Card = st.Card || part == format.CardPart
		st.Manifest = st.Manifest || part == format.ManifestPart
	}
	for _, t := range tombs {
		if verdicts[t] {
			b, err := store.Get(ctx, format.VerdictKey(s, t), nil, 64)
			if err != nil && !errors.Is(err, chunkstore.ErrNotFound) {
				return st, err
			}
			if string(b) == format.VerdictKeep { // whoever put it died before he removed the tomb
				continue
			}
		}
		st.Tombs = append(st.Tombs, t)
	}
	return st, nil
}
