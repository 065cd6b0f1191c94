package volume

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// reservation is what an operation may need, at most.
type reservation struct {
	pages  int  // blocks of data
	ring   int  // bytes of the record
	nodes  int  // tree pages that become dirty
	urgent bool // frees space: may use the reserve
	nested bool // the caller holds locks that granted operations may wait for
	snaps  bool // frees what snapshots hold: may use all of the reserve

	promised bool  // writes to reserved blocks only: may use what is held for them
	hold     int64 // blocks that reserved ranges will be owed, and their metadata
	promises int   // 1: makes or changes reserved ranges; not while a snapshot is taken
	pins     int   // 1: takes a snapshot, which will owe all ranges; not beside promises
}

// opNodes covers the tree pages that an operation on a few keys dirties: two
// paths of the usual height, with a split each. Commits see the real number.
const opNodes = 12

// commitNodes is kept for what a commit itself needs beyond the dirty pages:
// space tree, free list, second copies.
const commitNodes = 96

// maxBacklog is how many full buffers may be on their way to the device.
const maxBacklog = 8 << 20 / bufferBytes

// maxFreed bounds the list of what one generation frees: 16 bytes a run.
const maxFreed = 200_000

// admission counts what operations were promised, and what of it is in use.
// Nothing blocks in the gate: an operation waits here first.
type admission struct {
	v *Volume

	mu   sync.Mutex
	cond sync.Cond

	maxPages     int // dirty pages of data
	soft         int // above: flushers take buffers that are not full
	maxNodes     int // dirty tree pages: a commit is due
	reserveSlots int64

	pages     int          // dirty or on their way
	pageCount atomic.Int64 // the same
	nodes     int          // dirty tree pages
	inodes    int          // newer than the tree
	buffers   int          // with dirty pages
	granted   reservation

	holds  int    // freezes: nobody is admitted who is not in the middle of something
	active int    // admitted, and in the background what writes to the device
	grants uint64 // operations admitted so far

	changed func() // something is to be committed
	parked  func(n int)
}

func (a *admission) dirtyNodes(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.nodes += n
}

func (a *admission) dirtyInodes(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.inodes += n
}

// dirtyPages counts pages that became dirty (or, negative, are done).
func (a *admission) dirtyPages(pages, buffers int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pages += pages
	a.pageCount.Store(int64(a.pages))
	a.buffers += buffers
	if pages < 0 {
		a.cond.Broadcast()
	}
}

// dirtyCount is how many pages are dirty or on their way. It takes no lock: the
// flusher asks with its own held, which reserve takes inside of mu.
func (a *admission) dirtyCount() int { return int(a.pageCount.Load()) }

// wake has everybody who waits look again.
func (a *admission) wake() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cond.Broadcast()
}

// grant notes what done ends. The caller holds mu.
func (a *admission) grant(c reservation) {
	a.active++
	a.grants++
	a.granted.pages += c.pages
	a.granted.ring += c.ring
	a.granted.nodes += c.nodes
	a.granted.hold += c.hold
	a.granted.promises += c.promises
	a.granted.pins += c.pins
}

// done ends what reserve granted.
func (a *admission) done(c reservation) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.granted.pages -= c.pages
	a.granted.ring -= c.ring
	a.granted.nodes -= c.nodes
	a.granted.hold -= c.hold
	a.granted.promises -= c.promises
	a.granted.pins -= c.pins
	a.active--
	a.cond.Broadcast()
}

// unhold ends a part of what reserve granted to hold.
func (a *admission) unhold(n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.granted.hold -= n
	a.cond.Broadcast()
}

type verdict int

const (
	admitted   verdict = iota
	waitOther          // somebody who is admitted stands in the way
	waitFlush          // too many dirty pages
	waitCommit         // ring or tree pages
	waitSpace          // a commit may give space back
)

// try grants c if it fits. The caller holds mu.
func (a *admission) try(c reservation) verdict {
	v := a.v
	// What was granted to operations that wait for our lock is not coming back:
	// a nested request waits only for what flushers and commits bring about.
	if !c.nested && a.pages > 0 && a.pages+a.granted.pages+c.pages > a.maxPages {
		return waitFlush
	}
	// A writer of full buffers does not run far ahead of the device: a sync, which
	// makes everything before it durable, would have to wait for all of it.
	if c.pages > bufferPages && v.flush.backlog.Load() > maxBacklog {
		return waitFlush
	}
	if v.ring != nil {
		// A record may waste its own length at the end of the buffer.
		need := 2*(a.granted.ring+c.ring) + 64
		if v.ring.Used()+need > v.ring.Size() {
			return waitCommit
		}
	}
	granted := a.granted.nodes
	if c.nested {
		granted = 0
	}
	if a.nodes+granted > a.maxNodes || a.inodes > maxIdle || v.space.FreedRuns()+int(v.snap.pendingRuns.Load()) > maxFreed {
		return waitCommit
	}
	return a.tryRoom(c)
}

// tryRoom is try as far as it is about space. The caller holds adm.mu.
func (a *admission) tryRoom(c reservation) verdict {
	v := a.v
	if c.pins > 0 && a.granted.promises > 0 || c.promises > 0 && a.granted.pins > 0 {
		return waitOther
	}
	free, nodeSlots, waiting := v.space.Counts()
	need := int64(a.pages + a.granted.pages + c.pages)
	// A commit must be possible at any time: its pages, and what data takes of
	// the same node slots, are there now.
	meta := a.meta(c)
	if c.promised {
		if nodeSlots < meta || free-layout.NodeBlocks*meta < need {
			return waitSpace
		}
		return admitted
	}
	held, heldMeta := v.ranges.held(a.granted.pins+c.pins > 0)
	held += a.granted.hold + c.hold
	if c.snaps { // it brings back what a rollback owes
		held, heldMeta = 0, 0
	}
	if !c.snaps && (v.snap.newest.Load() > 0 || held > 0) {
		// With snapshots, deletes may take space and give none back. Some is left
		// to delete snapshots, and to lend to writes of reserved ranges.
		meta += a.reserveSlots / 2
	}
	if nodeSlots < meta+heldMeta/layout.NodeBlocks || free-layout.NodeBlocks*meta < need {
		return waitSpace
	}
	// What is held for reserved ranges may wait for I3: it will be free.
	if held > 0 && free+waiting-layout.NodeBlocks*meta-held < need {
		return waitSpace
	}
	// The reserve is for what commits use and give back, and for deletes; it is
	// not for data. What waits for I3 will be free.
	if !c.urgent && free+waiting-layout.NodeBlocks*a.reserveSlots-held < need {
		return waitSpace
	}
	return admitted
}

// meta bounds the node slots that a commit would need now, if an operation
// made more dirty pages. The caller holds adm.mu.
func (a *admission) meta(more reservation) int64 {
	v := a.v
	// Dirty inodes and buffers may each dirty a page and split it; second copies
	// of the upper levels are at most half as many as there are pages.
	pages := a.nodes + a.granted.nodes + more.nodes + 2*a.buffers + a.inodes
	drops := a.pages + a.granted.pages + more.pages // each may lie elsewhere: in a dead list, or shared
	dead := v.snap.deadNodes(drops + pages)
	return int64((pages+v.shares.OverwritePages(drops))*3/2+v.space.FreedRuns()/listRuns) + dead + commitNodes
}

// fullCommits is after how many commits that gave nothing back a volume is full: one
// may be under way, the next one frees, and after the one that follows it that is
// usable.
const fullCommits = 4

// passPause is between the commits of who waits for restamp alone. On a fast device all commits
// would be over before a busy machine has come to the pass. The pass cannot be waited for: while
// the volume is frozen it rests.
const passPause = 5 * time.Millisecond

// reserve waits until c fits and grants it; done gives it back. The caller holds
// no lock that a commit or a flusher takes. ErrNoSpace when two commits have not
// freed enough, the volume's own error when it has failed.
func (a *admission) reserve(c reservation) error {
	v := a.v
	if err := v.writable(); err != nil {
		return err
	}
	commits, vain, grants := 0, 0, uint64(0)
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		if a.holds > 0 && !c.nested {
			a.parked(1)
			a.cond.Wait()
			a.parked(-1)
			if err := v.writable(); err != nil {
				return err
			}
			continue
		}
		switch a.try(c) {
		case admitted:
			a.grant(c)
			return nil
		case waitOther:
			a.cond.Wait()
		case waitFlush:
			v.flush.kick()
			a.cond.Wait()
		case waitCommit:
			a.mu.Unlock()
			err := v.com.since(v.com.commits.Load())
			a.mu.Lock()
			if err != nil {
				return err
			}
		case waitSpace:
			// What the next commit frees is usable after the one that follows it. If
			// others were admitted meanwhile, they had what came back: it is a queue,
			// not a full volume, unless it takes too long.
			if a.grants != grants {
				vain, grants = 0, a.grants
			}
			if a.full(c, vain, commits) {
				return vfs.ErrNoSpace
			}
			passing := vain >= fullCommits
			vain++
			commits++
			a.mu.Unlock()
			if passing {
				<-time.After(passPause)
			}
			if !c.urgent { // deleted files count as space at once
				v.background.reaper.wait()
			}
			err := v.com.since(v.com.commits.Load())
			a.mu.Lock()
			if err != nil {
				return err
			}
		}
		if err := v.writable(); err != nil {
			return err
		}
	}
}

// full tells whether to give up after commits that found no room, vain of them since
// anybody else was admitted.
func (a *admission) full(c reservation, vain, commits int) bool {
	v := a.v
	if (c.promised || c.urgent && !c.snaps && v.ranges.owed.Load() > 0) && v.ranges.freeing() {
		return false // a rollback owes what ranges have, until what the old head had is free
	}
	if vain == 1 && !c.promised && !c.snaps {
		v.ranges.wantRestamp()
	}
	if vain < fullCommits && commits < 32*fullCommits {
		return false
	}
	// What is owed for nothing any more is room. (The pass itself asks with snaps set.)
	return c.promised || c.snaps || commits >= 32*fullCommits || !v.ranges.restamping()
}

// reserveSlots is 1 % of the device, at least 16 MiB.
func reserveSlots(deviceBytes int64) int64 {
	return max(deviceBytes/100, 16<<20) / layout.NodeBytes
}

func (a *admission) initAdmission(memory int, deviceBytes int64) {
	a.cond.L = &a.mu
	a.maxPages = memory / 4 / layout.BlockBytes
	a.soft = min(16<<20/layout.BlockBytes, a.maxPages/2)
	a.maxNodes = memory / 8 / layout.NodeBytes
	a.reserveSlots = reserveSlots(deviceBytes)
}
