package create

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/snapshot/merkle"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
)

const (
	// queueRanges is how many ranges of one file a worker is given. A file with more of them is
	// read by the walk itself, with all workers at its chunks.
	queueRanges = 256
	// queueBytes is the same for the bytes of these ranges.
	queueBytes = 8 << 20
)

// queued is a change of the map, or will be one when done is closed.
type queued struct {
	change merkle.Change
	done   chan struct{} // nil: it is complete
	err    error         // set before done is closed
}

// walker turns what differs between two states into changes of the map, in order. It is a
// pinned.Visitor.
type walker struct {
	j     *job
	ctx   context.Context //nolint:containedctx // of the one walk
	out   chan *queued
	slots chan struct{} // one for each file that a worker reads
}

// build makes the map of the new state.
func (j *job) build(ctx context.Context) (merkle.Root, merkle.Stats, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	w := &walker{j: j, ctx: ctx, out: make(chan *queued, queueFacts), slots: make(chan struct{}, j.workers())}
	walked := make(chan error, 1)
	go func() {
		defer close(w.out)
		err := pinned.Diff(ctx, j.from, j.to, w)
		if err != nil {
			stop(err)
		}
		walked <- err
	}()
	changes := w.changes()
	if j.from == nil && j.base != nil {
		changes = j.withDeletions(ctx, changes)
	}
	root, stats, err := j.old.Update(ctx, changes)
	if err != nil {
		stop(err)
	}
	for q := range w.out { // workers end before their memory is used again
		if q.done != nil {
			<-q.done
		}
	}
	if werr := <-walked; werr != nil && (err == nil || ctx.Err() != nil) {
		err = context.Cause(ctx)
	}
	return root, stats, err
}

// changes yields the queue.
func (w *walker) changes() iter.Seq2[merkle.Change, error] {
	return func(yield func(merkle.Change, error) bool) {
		for q := range w.out {
			if q.done != nil {
				<-q.done
			}
			if !yield(q.change, q.err) || q.err != nil {
				return
			}
		}
		if w.ctx.Err() != nil {
			yield(merkle.Change{}, context.Cause(w.ctx))
		}
	}
}

// withDeletions adds deletions of what only the base has, to the facts of a whole volume.
func (j *job) withDeletions(ctx context.Context, facts iter.Seq2[merkle.Change, error]) iter.Seq2[merkle.Change, error] {
	return func(yield func(merkle.Change, error) bool) {
		next, stop := iter.Pull2(j.old.Scan(ctx, logical.Key{}, merkle.LastKey))
		defer stop()
		it, err, ok := next()
		for c, cerr := range facts {
			for ok && err == nil && cerr == nil && it.Key.Compare(c.Key) < 0 {
				if !yield(merkle.Change{Key: it.Key}, nil) {
					return
				}
				it, err, ok = next()
			}
			if ok && err == nil && it.Key == c.Key {
				it, err, ok = next()
			}
			if cerr == nil && err != nil {
				cerr = err
			}
			if !yield(c, cerr) || cerr != nil {
				return
			}
		}
		for ok {
			if !yield(merkle.Change{Key: it.Key}, err) || err != nil {
				return
			}
			it, err, ok = next()
		}
	}
}

func (w *walker) put(q *queued) error {
	select {
	case w.out <- q:
		return nil
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	}
}

func (w *walker) fact(k logical.Key, value []byte) error {
	return w.put(&queued{change: merkle.Change{Key: k, Value: value}})
}

// encoded is fact for what an encoder returns.
func (w *walker) encoded(k logical.Key) func(value []byte, err error) error {
	return func(value []byte, err error) error {
		if err != nil {
			return fmt.Errorf("inode %d: %w", k.Ino, err)
		}
		return w.fact(k, value)
	}
}

// Inode implements pinned.Visitor.
func (w *walker) Inode(ino uint64, n *logical.Inode) error {
	k := logical.Key{Ino: ino, Type: logical.InodeType}
	if err := w.j.countInode(w.ctx, k, n); err != nil {
		return err
	}
	if n == nil {
		return w.put(&queued{change: merkle.Change{Key: logical.Key{Ino: ino}, Inode: true}})
	}
	return w.encoded(k)(fact.AppendInode(nil, n))
}

// Inline implements pinned.Visitor.
func (w *walker) Inline(ino uint64, b []byte) error {
	k := logical.Key{Ino: ino, Type: logical.InlineType}
	if b == nil {
		return w.fact(k, nil)
	}
	w.j.count.read.Add(uint64(len(b)))
	return w.fact(k, slices.Clone(b))
}

// Xattr implements pinned.Visitor.
func (w *walker) Xattr(ino, sub uint64, x *logical.Xattr) error {
	k := logical.Key{Ino: ino, Type: logical.XattrType, Sub: sub}
	if x == nil {
		return w.fact(k, nil)
	}
	return w.encoded(k)(fact.AppendXattr(nil, x))
}

// Name implements pinned.Visitor.
func (w *walker) Name(dir, sub uint64, n *logical.Name) error {
	k := logical.Key{Ino: dir, Type: logical.NameType, Sub: sub}
	if n == nil {
		return w.fact(k, nil)
	}
	return w.encoded(k)(fact.AppendName(nil, n))
}

// Data implements pinned.Visitor. The content of a file is read by a worker, unless it is large.
func (w *walker) Data(d *pinned.DataChange) error {
	k := logical.Key{Ino: d.Ino, Type: logical.DataType}
	if d.Gone {
		return w.fact(k, nil)
	}
	next, stop := iter.Pull2(d.Dirty)
	defer stop()
	var ranges []selfenc.Range
	total := uint64(0)
	for {
		r, err, ok := next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		ranges = append(ranges, selfenc.Range(r))
		if total += r.Len; len(ranges) >= queueRanges || total > queueBytes {
			return w.large(k, d, ranges, next)
		}
	}
	q := &queued{change: merkle.Change{Key: k}, done: make(chan struct{})}
	select {
	case w.slots <- struct{}{}:
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	}
	go func() {
		defer close(q.done)
		defer func() { <-w.slots }()
		q.change.Value, q.err = w.j.data(w.ctx, k, d.Size, rangesOf(ranges, nil))
	}()
	return w.put(q)
}

// large reads a file in the walk. Workers go on with those before it.
func (w *walker) large(k logical.Key, d *pinned.DataChange, first []selfenc.Range, next func() (logical.Range, error, bool)) error {
	value, err := w.j.data(w.ctx, k, d.Size, rangesOf(first, next))
	if err != nil {
		return err
	}
	return w.fact(k, value)
}

// rangesOf yields ranges, and then what next returns.
func rangesOf(first []selfenc.Range, next func() (logical.Range, error, bool)) iter.Seq2[selfenc.Range, error] {
	return func(yield func(selfenc.Range, error) bool) {
		for _, r := range first {
			if !yield(r, nil) {
				return
			}
		}
		for next != nil {
			r, err, ok := next()
			if !ok || !yield(selfenc.Range(r), err) || err != nil {
				return
			}
		}
	}
}

// data stores the changed content of a file, and returns its fact.
func (j *job) data(ctx context.Context, k logical.Key, size uint64, dirty iter.Seq2[selfenc.Range, error]) ([]byte, error) {
	old, err := j.oldObject(ctx, k)
	if err != nil {
		return nil, err
	}
	if old != nil && j.from == nil {
		// What is known to differ from nothing is what the file has now. It may have had data where
		// it has a hole now.
		dirty = union(dirty, j.dataOf(ctx, old))
	}
	f, err := j.to.Open(k.Ino)
	if err != nil {
		return nil, err
	}
	object, stats, err := j.sealer.Update(ctx, old, int64(size), dirty, f)
	if err != nil {
		return nil, fmt.Errorf("content of inode %d: %w", k.Ino, err)
	}
	j.count.update(&stats, uint64(j.o.Format.ChunkBytes), old != nil)
	if object.Root == (selfenc.PackedRef{}) {
		return nil, nil // zeros alone: there is no fact
	}
	return fact.AppendData(nil, &object)
}

// oldObject returns the content that the base has of a file, nil if none.
func (j *job) oldObject(ctx context.Context, k logical.Key) (*selfenc.PackedObject, error) {
	v, ok, err := j.old.Get(ctx, k)
	if err != nil || !ok {
		return nil, err
	}
	o, err := fact.DecodeData(v)
	if err != nil {
		return nil, fmt.Errorf("earlier snapshot: inode %d: %w", k.Ino, err)
	}
	return &o, nil
}
