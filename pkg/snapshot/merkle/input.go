package merkle

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// input turns changes into splices of level 0.
type input struct {
	l     *level
	ahead lookahead
	some  bool        // there was a change
	last  logical.Key // of it
	fresh bool        // last is the key of a change without a value: a value of that key may follow
	inode bool        // the splice of an inode is open: that of last
}

// Changes that wait while nodes are read ahead: so many, and so many bytes of values.
const (
	maxWaiting      = 1024
	maxWaitingBytes = 1 << 20
)

// lookahead holds changes back until the leaves that they fall into are there.
type lookahead struct {
	cursor cursor // in the leaf of the last change that waits
	group  sync.WaitGroup
	queue  []waiting
	bytes  int
	leaves int // that were read for changes that wait
}

// waiting is a change that waits.
type waiting struct {
	Change
	leaf bool // a leaf was read for it
}

// add adds a change, which may wait for others.
func (in *input) add(ctx context.Context, c *Change) error {
	parallel := in.l.u.old.config.Parallel
	if parallel == 0 || in.l.u.top == nil {
		return in.change(ctx, c)
	}
	a := &in.ahead
	leaf, err := a.cursor.seekNode(ctx, c.Key)
	if err != nil {
		return err
	}
	if leaf = leaf || !in.some && len(a.queue) == 0; leaf {
		x, err := a.cursor.expect()
		if err != nil {
			return err
		}
		a.leaves++
		a.group.Go(func() {
			_, _ = in.l.u.old.load(ctx, &x) // into the cache; the level that needs it gets the error
		})
	}
	a.queue = append(a.queue, waiting{Change{c.Key, slices.Clone(c.Value), c.Inode}, leaf})
	a.bytes += len(c.Value)
	for len(a.queue) > maxWaiting || a.bytes > maxWaitingBytes || a.leaves > parallel {
		if err := in.pop(ctx); err != nil {
			return err
		}
	}
	return nil
}

// pop makes the change that has waited longest.
func (in *input) pop(ctx context.Context) error {
	a := &in.ahead
	c := a.queue[0]
	a.queue = a.queue[1:]
	a.bytes -= len(c.Value)
	if c.leaf {
		a.leaves--
	}
	return in.change(ctx, &c.Change)
}

// end makes the changes that wait, and ends the last inode.
func (in *input) end(ctx context.Context) error {
	for len(in.ahead.queue) > 0 {
		if err := in.pop(ctx); err != nil {
			return err
		}
	}
	return in.endInode(ctx)
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
