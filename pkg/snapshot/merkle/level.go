package merkle

import (
	"bytes"
	"context"

	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// level writes one level of a new map, from left to right.
//
// It is told of splices: open(a), put of items with ascending keys, close(b), which replace what the
// old level has from a to before b. Splices ascend and do not overlap. The nodes that it writes
// become splices of the level above.
//
// A level is clean or dirty. Clean: all nodes so far are old ones or have been handed over, the
// cursor is at the start of an old node, and the open node is empty. Then the level continues as the
// old one does, and old nodes that nothing changes are skipped unread. It becomes dirty when a splice
// is opened, at the start of the old node that the splice falls into. From there on old items are
// copied into the open node. It is clean again once the open node has just ended where an old node
// ends: by the cut rule the rest is then as it was.
type level struct {
	u   *updater
	n   int
	old cursor
	b   builder

	dirty bool
	// alone: no node of the level comes before the open one.
	alone bool
	// While dirty:
	from  logical.Key // where the splice of the level above begins
	told  bool        // that splice has been opened
	start int         // ordinal of the old node where the level became dirty
	// match is hash and reference of the old node whose first item is the first item of the open
	// node; nil: none.
	match   []byte
	matched int // ordinal of that node
}

func newLevel(u *updater, n int) *level {
	return &level{u: u, n: n, alone: true, b: newBuilder(&u.old.config, n), old: newCursor(u.old, u.top, n)}
}

// begin makes a clean level dirty at a.
func (l *level) begin(a logical.Key) {
	l.dirty, l.told, l.from, l.start = true, false, a, l.old.ordinal
	if k, ok := l.old.key(); ok {
		l.from = k
	}
}

// seek moves a clean level to the node that contains k.
func (l *level) seek(ctx context.Context, k logical.Key) error {
	moved, err := l.old.seekNode(ctx, k)
	if moved {
		l.alone = false
	}
	return err
}

// open opens a splice at a.
func (l *level) open(ctx context.Context, a logical.Key) error {
	if err := l.copyTo(ctx, &a); err != nil || l.dirty {
		return err
	}
	if err := l.seek(ctx, a); err != nil {
		return err
	}
	l.begin(a)
	return l.copyTo(ctx, &a)
}

// copyTo copies old items up to before k, or, if k is nil, all, while the level is dirty.
func (l *level) copyTo(ctx context.Context, k *logical.Key) error {
	for l.dirty {
		at, ok := l.old.key()
		if !ok || k != nil && at.Compare(*k) >= 0 {
			return nil
		}
		// If the cursor is still where the level became dirty, there is nothing to settle.
		if l.b.count == 0 && l.old.atStart() && (l.told || l.old.ordinal != l.start) {
			if err := l.settle(ctx, at); err != nil {
				return err
			}
			continue
		}
		if err := l.copyOne(ctx); err != nil {
			return err
		}
	}
	return nil
}

// settle makes the level clean at the start of an old node, whose first key is k.
func (l *level) settle(ctx context.Context, k logical.Key) error {
	if err := l.tell(ctx); err != nil {
		return err
	}
	l.dirty = false
	return l.u.above(l).close(ctx, &k)
}

// tell opens the splice of the level above.
func (l *level) tell(ctx context.Context) error {
	if l.told {
		return nil
	}
	l.told = true
	up, err := l.u.level(l.n + 1)
	if err != nil {
		return err
	}
	return up.open(ctx, l.from)
}

// copyOne copies the old item at the cursor.
func (l *level) copyOne(ctx context.Context) error {
	if err := l.old.read(ctx); err != nil {
		return err
	}
	if l.b.count == 0 && l.old.atStart() {
		l.match, l.matched = l.old.child(), l.old.ordinal
	}
	if err := l.add(ctx, l.old.leaf.key(l.old.i), l.old.leaf.payload(l.old.i)); err != nil {
		return err
	}
	l.old.next()
	return nil
}

// put adds an item to the splice that is open.
func (l *level) put(ctx context.Context, k logical.Key, payload []byte) error {
	if !l.dirty {
		l.begin(k)
	}
	if err := l.old.skipTo(ctx, k); err != nil {
		return err
	}
	if at, ok := l.old.key(); ok && at == k {
		same, err := l.same(ctx, payload)
		if err != nil {
			return err
		}
		if same { // the old item has places that exist already
			return l.copyOne(ctx)
		}
	}
	return l.add(ctx, k, payload)
}

// same reports whether the old item at the cursor has the same content as one with the same key.
func (l *level) same(ctx context.Context, payload []byte) (bool, error) {
	if err := l.old.read(ctx); err != nil {
		return false, err
	}
	old := l.old.leaf.payload(l.old.i)
	if l.n > 0 {
		return bytes.Equal(old[:hashBytes], payload[:hashBytes]), nil
	}
	return l.u.old.config.sameContent(l.old.leaf.key(l.old.i), old, payload)
}

// close ends the splice before b, or, if b is nil, at the end of the level.
func (l *level) close(ctx context.Context, b *logical.Key) error {
	at, ok := l.old.key()
	if !ok || b != nil && at.Compare(*b) >= 0 {
		return nil // nothing to drop
	}
	if !l.dirty {
		l.begin(at)
	}
	if b == nil {
		l.old.skipAll()
		return nil
	}
	return l.old.skipTo(ctx, *b)
}

// add adds an item to the open node.
func (l *level) add(ctx context.Context, k logical.Key, payload []byte) error {
	ended, err := l.b.add(k, payload)
	if err != nil || !ended {
		return err
	}
	return l.flush(ctx)
}

// flush ends the open node, and hands it over to the level above, unless all is as it was.
func (l *level) flush(ctx context.Context) error {
	raw, content := l.b.finish()
	first, match := l.b.first, l.match
	l.match, l.alone = nil, false
	if match != nil && bytes.Equal(match[:hashBytes], content[:]) {
		l.u.stats.Kept++
		l.b.reset()
		if !l.told && l.matched == l.start {
			l.dirty = false
			return nil
		}
	} else {
		ref, err := l.u.old.config.Nodes.Put(ctx, raw)
		if err != nil {
			return err
		}
		l.u.stats.Written++
		l.u.stats.Bytes += int64(len(raw))
		match = appendChild(nil, &child{content, ref})
		l.b.reset()
	}
	if err := l.tell(ctx); err != nil {
		return err
	}
	return l.u.above(l).put(ctx, first, match)
}

// finish ends the level. done is true if the new map's root is known.
func (l *level) finish(ctx context.Context) (r Root, done bool, err error) {
	if err := l.copyTo(ctx, nil); err != nil || !l.dirty {
		return r, false, err
	}
	if l.alone && l.b.count == 0 {
		return r, true, nil
	}
	if l.alone && l.b.count == 1 && l.n > 0 {
		c, _, err := decodeChild(l.b.raw[l.b.last:])
		return Root{Ref: c.ref, Height: uint8(l.n - 1), Content: c.content}, true, err
	}
	if l.b.count > 0 {
		if err := l.flush(ctx); err != nil || !l.dirty {
			return r, false, err
		}
	}
	if err := l.tell(ctx); err != nil {
		return r, false, err
	}
	return r, false, l.u.above(l).close(ctx, nil)
}
