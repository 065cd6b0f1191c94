package volume

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// committer is the goroutine that commits: on request, and after each interval in which something
// changed.
type committer struct {
	v *Volume

	mu      sync.Mutex
	cond    sync.Cond // signalled when a commit ends, or the volume fails
	asked   chan struct{}
	changed chan struct{}
	quit    chan struct{}
	done    chan struct{}
	sc      *txn.SpaceCommit // of the current commit
	ended   bool             // no more commits will follow; guarded by mu
	run     sync.Mutex       // held while the committer commits
	quiet   int              // number of freezes: everything is durable, and no commit starts; guarded by mu

	spaces   *tree.Tree    // owned by the committer
	ringMark atomic.Uint64 // end of the ring at the last freeze of a generation
	commits  atomic.Uint64 // number of successful commits
	lists    [2]listPlace  // of the newest durable root; owned by the committer
	copied   atomic.Uint64 // blocks shared in this generation that no durable root covers; see maxLogCopies

	inos counters
}

func (c *committer) init() {
	c.cond.L = &c.mu
	c.asked = make(chan struct{}, 1)
	c.changed = make(chan struct{}, 1)
	c.quit = make(chan struct{})
	c.done = make(chan struct{})
}

func (c *committer) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cond.Broadcast()
}

func (c *committer) start() {
	v := c.v
	v.adm.changed = func() {
		select {
		case c.changed <- struct{}{}:
		default:
		}
		v.sync.idle.note()
	}
	go func() {
		defer close(c.done)
		var timer <-chan time.Time
		for {
			select {
			case <-c.changed:
				if timer == nil && v.opts.CommitInterval > 0 {
					timer = time.After(v.opts.CommitInterval)
				}
				continue
			case <-timer:
			case <-c.asked:
			case <-c.quit:
				return
			}
			timer = nil
			c.commitUnlessQuiet()
			c.wake()
		}
	}()
}

// commitUnlessQuiet is one commit of the committer. In a freeze there is nothing to commit. If a
// commit fails, the volume has failed before a freeze that waits for it continues.
func (c *committer) commitUnlessQuiet() {
	v := c.v
	c.run.Lock()
	defer c.run.Unlock()
	c.mu.Lock()
	quiet := c.quiet > 0
	c.mu.Unlock()
	if !quiet && v.Failed() == nil {
		v.fail(c.commit(false))
	}
}

// endCommits tells waiters that no more commits will follow.
func (c *committer) endCommits() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.cond.Broadcast()
}

func (c *committer) end() {
	close(c.quit)
	<-c.done
}

// since requests a commit and waits until more than n commits have succeeded.
func (c *committer) since(n uint64) error {
	v := c.v
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.commits.Load() <= n {
		if err := v.Failed(); err != nil {
			return v.writable()
		}
		if c.ended {
			return vfs.ErrClosed
		}
		if c.quiet > 0 {
			return nil // nothing to commit; the caller waits for the thaw
		}
		c.ask()
		c.cond.Wait()
	}
	return nil
}

func (c *committer) ask() {
	select {
	case c.asked <- struct{}{}:
	default: // already requested
	}
}

// commitAll makes all earlier changes part of a durable root that is newer than the current one. In
// a freeze it waits for the thaw.
func (c *committer) commitAll() error { return c.commitOpen(false) }

// commitData is commitAll for callers that need only the data: in a freeze, the newest root already
// has all of it.
func (c *committer) commitData() error { return c.commitOpen(true) }

func (c *committer) commitOpen(atRest bool) error {
	v := c.v
	v.gate.RLock()
	open := v.gen
	v.gate.RUnlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for v.durable.generation() < open {
		if v.Failed() != nil {
			return v.writable()
		}
		if c.ended {
			return vfs.ErrClosed
		}
		if c.quiet == 0 {
			c.ask()
		} else if atRest {
			return nil
		}
		c.cond.Wait()
	}
	return nil
}

// commit ends the open generation and makes it durable (I1–I4).
func (c *committer) commit(clean bool) error {
	v := c.v
	v.flush.flushAhead()
	g, err := c.freeze(clean)
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	// From here on, the next generation is independent.
	v.flush.waitWrites(g.gen)
	if err := v.Failed(); err != nil {
		return err
	}
	if err := c.writeTrees(g); err != nil {
		return fmt.Errorf("commit %d: %w", g.gen, err)
	}
	r, err := v.store.WriteRoot(g.root)
	if err != nil {
		return fmt.Errorf("commit %d: %w", g.gen, err)
	}
	return c.publish(g, r)
}

// frozen is a generation that is being written to the device.
type frozen struct {
	gen    uint64
	root   *layout.Root
	trees  []*tree.Frozen // of Volume.trees
	pages  [][]*tree.Page // of these, once written
	spaces *tree.Frozen
	spaced []*tree.Page // of spaces
	space  *txn.SpaceCommit
	ring   uint64    // the commit covers the ring up to here
	list   listPlace // the free list of this generation
}

// copies is the number of pages that writing the trees takes, second copies included.
func (c *frozen) copies() (n int) {
	for _, t := range c.trees {
		n += t.Copies()
	}
	return n
}

// freeze ends the open generation: the trees then have everything that was acknowledged. Operations
// wait while dirty data is sealed. On an error, freeze makes the volume fail before they continue,
// because dirty data no longer counts as dirty.
func (c *committer) freeze(clean bool) (g *frozen, err error) {
	v := c.v
	v.gate.Lock()
	defer v.gate.Unlock()
	defer func() { v.fail(err) }()
	if err := v.flush.flushAll(); err != nil {
		return nil, err
	}
	if err := c.storeInodes(); err != nil {
		return nil, err
	}
	if err := v.anc.freezeAnchors(); err != nil {
		return nil, err
	}
	g = &frozen{gen: v.gen}
	for _, t := range v.trees {
		if t == v.snap.tree { // the head's tree has reported what it dropped
			if err := v.snap.storeDead(); err != nil {
				return nil, err
			}
		}
		g.trees = append(g.trees, t.Freeze())
	}
	// What the commit before last freed is reusable since the last commit. The blocks of that list
	// are not needed any more.
	for _, r := range c.lists[1].pieces {
		v.space.Free(r)
	}
	g.space, err = v.space.Freeze(func(values, freedRuns int) int {
		lists := (freedRuns+16*values)/listRuns + 2
		return g.copies() + 4*values + lists
	})
	if err != nil {
		return nil, err
	}
	c.sc = g.space
	if v.ring != nil {
		g.ring = v.ring.Head()
		c.ringMark.Store(g.ring)
	}
	v.durable.mu.Lock()
	root := *v.durable.root
	root.PrevR = v.durable.r
	v.durable.mu.Unlock()
	root.Generation = v.gen
	root.Clean = clean
	root.OpSeq = v.nextOp
	root.HeaderSeq = v.keys.floor.Load()
	root.Offered = v.anc.offers()
	root.Rotation = v.rot.current()
	if v.log != nil {
		root.LogSeq = v.log.Next()
	}
	v.com.inos.mu.Lock()
	root.NextIno, root.Inodes = v.com.inos.next, v.com.inos.inodes
	v.com.inos.mu.Unlock()
	root.DeviceBlocks = v.blocks.Load()
	root.NewestSnapshot = v.snap.take(v.gen, root.Inodes, oldestEpoch(&root.Rotation), &v.ranges)
	root.Reserved = v.ranges.stored()
	g.root = &root
	c.copied.Store(0)
	v.gen++
	return g, nil
}

// storeInodes stores changed attributes in the tree.
func (c *committer) storeInodes() error {
	v := c.v
	v.table.dirtyMu.Lock()
	list := v.table.dirty
	v.table.dirty = nil
	for _, in := range list {
		in.dirty = false
	}
	v.table.dirtyMu.Unlock()
	slices.SortFunc(list, func(a, b *inode) int { return cmp.Compare(a.ino, b.ino) })
	err := v.fs.Update(func(w *tree.Writer) error {
		buf := make([]byte, 0, layout.InodeBytes)
		for _, in := range list {
			if in.gone {
				continue
			}
			n := in.stored()
			if err := w.Put(items.InodeKey(in.ino), n.Append(buf)); err != nil {
				return err
			}
		}
		return nil
	})
	v.adm.dirtyInodes(-len(list))
	for _, in := range list {
		v.table.put(in)
	}
	return err
}

// publish announces that a generation is durable.
func (c *committer) publish(g *frozen, r [32]byte) error {
	v := c.v
	for i, t := range g.trees {
		t.Install(g.pages[i])
		v.adm.dirtyNodes(-t.Pages())
	}
	g.spaces.Install(g.spaced)
	v.durable.mu.Lock()
	prev := v.durable.root
	v.durable.root, v.durable.r = g.root, r
	v.durable.mu.Unlock()
	c.lists = [2]listPlace{g.list, c.lists[0]}
	v.flush.refs.trim(g.root.OpSeq)
	if v.ring != nil {
		v.ring.Trim(g.ring)
	}
	if v.log != nil && prev.MountID == g.root.MountID {
		// Keep the frames that the older of the two newest roots would replay.
		v.log.Trim(prev.LogSeq)
	}
	v.sync.committed(g.root.OpSeq)
	// I3: no root of the two newest reaches what the previous generation freed.
	err := v.space.Reuse(g.gen - 1)
	c.commits.Add(1)
	v.adm.wake()
	v.rot.kick()
	if err != nil {
		return fmt.Errorf("commit %d: reuse: %w", g.gen, err)
	}
	return nil
}
