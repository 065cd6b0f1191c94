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
	u := &updater{old: Open(c, old)}
	r, err := u.run(ctx, changes)
	u.stats.Read = int(u.old.Reads())
	if err != nil {
		return Root{}, u.stats, err
	}
	return r, u.stats, nil
}

func (u *updater) run(ctx context.Context, changes iter.Seq2[Change, error]) (r Root, err error) {
	in := input{}
	for c, err := range changes {
		if err == nil && in.l == nil { // without a change nothing is read
			if u.top, err = topOf(ctx, u.old); err == nil {
				in.l, err = u.level(ctx, 0)
			}
		}
		if err == nil {
			err = in.change(ctx, &c)
		}
		if err != nil {
			return Root{}, err
		}
	}
	if err := in.endInode(ctx); err != nil {
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

// level returns level n, which is at most one above those that exist.
func (u *updater) level(ctx context.Context, n int) (*level, error) {
	if n == len(u.levels) {
		if n > MaxHeight+1 {
			return nil, fmt.Errorf("%w: it would be higher than %d", ErrTooLarge, MaxHeight)
		}
		l, err := newLevel(ctx, u, n)
		if err != nil {
			return nil, err
		}
		u.levels = append(u.levels, l)
	}
	return u.levels[n], nil
}

// above returns the level above, which exists.
func (u *updater) above(l *level) *level { return u.levels[l.n+1] }

// input turns changes into splices of level 0.
type input struct {
	l     *level
	some  bool        // there was a change
	last  logical.Key // of it
	fresh bool        // last is the key of a change without a value: a value of that key may follow
	inode bool        // the splice of an inode is open: that of last
}

func (in *input) change(ctx context.Context, c *Change) error {
	if err := in.order(c); err != nil {
		return err
	}
	if in.inode && (c.Inode || c.Key.Ino != in.last.Ino) {
		if err := in.endInode(ctx); err != nil {
			return err
		}
	}
	in.some, in.last, in.fresh = true, c.Key, false
	if c.Inode {
		first, _ := InodeRange(c.Key.Ino)
		if c.Value == nil {
			in.last, in.fresh = first, true
		}
		if err := in.l.open(ctx, first); err != nil {
			return err
		}
		in.inode = true
	}
	switch {
	case in.inode && c.Value == nil:
		return nil
	case in.inode:
		return in.l.put(ctx, c.Key, c.Value)
	}
	return in.single(ctx, c)
}

// order checks that a change comes after the last one.
func (in *input) order(c *Change) error {
	switch {
	case !in.some, in.last.Ino < c.Key.Ino:
		return nil
	case !c.Inode && (in.last.Compare(c.Key) < 0 || in.fresh && in.last == c.Key):
		return nil
	}
	return fmt.Errorf("%w: inode %d, fact %d/%#x after inode %d, fact %d/%#x", ErrOrder, c.Key.Ino, c.Key.Type, c.Key.Sub, in.last.Ino, in.last.Type, in.last.Sub)
}

// single changes one key.
func (in *input) single(ctx context.Context, c *Change) error {
	if !in.l.dirty {
		same, err := in.unchanged(ctx, c)
		if err != nil || same {
			return err
		}
	}
	if err := in.l.open(ctx, c.Key); err != nil {
		return err
	}
	if c.Value != nil {
		if err := in.l.put(ctx, c.Key, c.Value); err != nil {
			return err
		}
	}
	end, ok := after(c.Key)
	if !ok {
		return in.l.close(ctx, nil)
	}
	return in.l.close(ctx, &end)
}

// unchanged reports whether a change changes nothing. The level is clean, and stays so.
func (in *input) unchanged(ctx context.Context, c *Change) (bool, error) {
	if err := in.l.seek(ctx, c.Key); err != nil {
		return false, err
	}
	if in.l.old.end {
		return c.Value == nil, nil
	}
	if err := in.l.old.read(ctx); err != nil {
		return false, err
	}
	n := in.l.old.leaf
	i, found := n.find(c.Key)
	if !found || c.Value == nil {
		return !found && c.Value == nil, nil
	}
	return in.l.u.old.config.sameContent(c.Key, n.payload(i), c.Value)
}

// endInode ends the splice of an inode.
func (in *input) endInode(ctx context.Context) error {
	if !in.inode {
		return nil
	}
	in.inode = false
	_, last := InodeRange(in.last.Ino)
	end, ok := after(last)
	if !ok {
		return in.l.close(ctx, nil)
	}
	return in.l.close(ctx, &end)
}

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
