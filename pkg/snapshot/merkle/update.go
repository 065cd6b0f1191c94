package merkle

import (
	"bytes"
	"context"
	"fmt"
	"iter"

	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// updater makes one map from another.
type updater struct {
	old    *Map
	top    *node // the level above the old root; nil: the old map is empty
	levels []*level
	stats  Stats
}

// Update applies changes, sorted by key, to the map of old, and returns the new one. It reads and
// stores only nodes whose items change, or that end elsewhere than before. Memory does not depend on
// the number of changes or items. A value whose placeless form is the old one's is no change: the
// old value with its places is kept.
//
// Nodes that were stored before an error are unused.
func Update(ctx context.Context, c Config, old Root, changes iter.Seq2[Change, error]) (Root, Stats, error) {
	return Open(c, old).Update(ctx, changes)
}

// Update is like the function Update. What else reads the Map meanwhile shares nodes with it, and
// counts among Stats.Read. The Map remains what it was.
func (m *Map) Update(ctx context.Context, changes iter.Seq2[Change, error]) (Root, Stats, error) {
	u, before := &updater{old: m}, m.Reads()
	r, err := u.run(ctx, changes)
	u.stats.Read = int(m.Reads() - before)
	if err != nil {
		return Root{}, u.stats, err
	}
	return r, u.stats, nil
}

func (u *updater) run(ctx context.Context, changes iter.Seq2[Change, error]) (r Root, err error) {
	in := input{}
	ctx, cancel := context.WithCancel(ctx)
	defer in.ahead.group.Wait()
	defer cancel()
	for c, err := range changes {
		if err == nil && in.l == nil { // without a change nothing is read
			err = u.begin(ctx, &in)
		}
		if err == nil {
			err = in.add(ctx, &c)
		}
		if err != nil {
			return Root{}, err
		}
	}
	if err := in.end(ctx); err != nil {
		return Root{}, err
	}
	for i := 0; i < len(u.levels); i++ { // finishing a level may add one
		r, done, err := u.levels[i].finish(ctx)
		if err != nil || done {
			return r, err
		}
	}
	return u.old.root, nil
}

// begin reads the old root, before the first change.
func (u *updater) begin(ctx context.Context, in *input) (err error) {
	if u.top, err = topOf(ctx, u.old); err != nil {
		return err
	}
	in.l, err = u.level(0)
	in.ahead.cursor = newCursor(u.old, u.top, 0)
	return err
}

// level returns level n, which is at most one above those that exist.
func (u *updater) level(n int) (*level, error) {
	if n == len(u.levels) {
		if n > MaxHeight+1 {
			return nil, fmt.Errorf("%w: it would be higher than %d", ErrTooLarge, MaxHeight)
		}
		u.levels = append(u.levels, newLevel(u, n))
	}
	return u.levels[n], nil
}

// above returns the level above, which exists.
func (u *updater) above(l *level) *level { return u.levels[l.n+1] }

// sameContent reports whether two values of a key have the same placeless form. The first one is of
// a verified node.
func (c *Config) sameContent(k logical.Key, old, value []byte) (bool, error) {
	if bytes.Equal(old, value) {
		return true, nil
	}
	a, err := c.Content(nil, k, old)
	if err != nil {
		return false, err
	}
	b, err := c.Content(nil, k, value)
	if err != nil {
		return false, err
	}
	return bytes.Equal(a, b), nil
}
