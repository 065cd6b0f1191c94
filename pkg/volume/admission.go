package volume

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// reservation is the most that an operation may need.
type reservation struct {
	pages  int  // blocks of data
	ring   int  // bytes of the record
	nodes  int  // tree pages that it makes dirty
	urgent bool // it frees space: it may use the reserve
	nested bool // the caller holds locks that operations with a grant may wait for
	snaps  bool // it frees what snapshots hold: it may use all of the reserve

	promised bool  // it writes only to reserved blocks: it may use the space withheld for them
	hold     int64 // blocks that become owed to reserved ranges, and their metadata
	promises int   // 1: it makes or changes reserved ranges; excludes pins
	pins     int   // 1: it takes a snapshot, after which all ranges are owed; excludes promises
}

// opNodes bounds the tree pages that an operation on a few keys makes dirty: two paths of the usual
// height, with a split each. Commits use the real number.
const opNodes = 12

// commitNodes is what a commit needs beyond the dirty pages: space tree, free list, second copies.
const commitNodes = 96

// maxBacklog is the most full buffers that may be on their way to the device.
const maxBacklog = 8 << 20 / bufferBytes

// maxFreed bounds the runs that one generation frees. A run takes 16 bytes.
const maxFreed = 200_000

// admission counts what was granted to operations, and what is in use. No operation waits for
// memory, ring or space inside the gate: it waits here first.
type admission struct {
	v *Volume

	mu   sync.Mutex
	cond sync.Cond

	maxPages     int // dirty pages of data
	soft         int // above this, flushers also take buffers that are not full
	maxNodes     int // dirty tree pages; above this, a commit is due
	reserveSlots int64

	pages     int          // dirty or being written
	pageCount atomic.Int64 // copy of pages, readable without mu
	nodes     int          // dirty tree pages
	inodes    int          // changed since the last commit
	buffers   int          // with dirty pages
	granted   reservation

	holds  int    // number of freezes: only nested reservations are granted
	stuck  int    // nested reservations that wait for space: the grants of their callers do not end
	active int    // grants that are not ended, and background work that writes to the device
	grants uint64 // reservations granted so far

	changed func() // called when there is something to commit
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

// dirtyPages counts pages that became dirty, or, if negative, that are done.
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

// dirtyCount is the number of pages that are dirty or being written. It takes no lock, because the
// flusher calls it with its own lock held, which reserve takes inside of mu.
func (a *admission) dirtyCount() int { return int(a.pageCount.Load()) }

// wake makes all waiting reservations check again.
func (a *admission) wake() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cond.Broadcast()
}

// grant counts a reservation until done. The caller holds mu.
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

// done ends a reservation that reserve granted.
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

// unhold gives back a part of a reservation's hold.
func (a *admission) unhold(n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.granted.hold -= n
	a.cond.Broadcast()
}

type verdict int

const (
	admitted   verdict = iota
	waitOther          // an operation with a grant is in the way
	waitFlush          // too many dirty pages
	waitCommit         // ring or tree pages are used up
	waitSpace          // a commit may free space
)

// try checks whether c fits. The caller holds mu.
func (a *admission) try(c reservation) verdict {
	v := a.v
	// Operations that wait for a lock of the caller do not end before it does. So a nested request
	// waits only for flushers and commits.
	if !c.nested && a.pages > 0 && a.pages+a.granted.pages+c.pages > a.maxPages {
		return waitFlush
	}
	// A writer of full buffers must not run far ahead of the device: a sync would have to wait for
	// all of it, because it makes everything before it durable.
	if c.pages > bufferPages && v.flush.backlog.Load() > maxBacklog {
		return waitFlush
	}
	if v.ring != nil {
		// A record may waste its own length at the end of the ring.
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

// tryRoom is the part of try that is about space. The caller holds mu.
func (a *admission) tryRoom(c reservation) verdict {
	v := a.v
	if c.pins > 0 && a.granted.promises > 0 || c.promises > 0 && a.granted.pins > 0 {
		return waitOther
	}
	free, nodeSlots, waiting := v.space.Counts()
	need := int64(a.pages + a.granted.pages + c.pages)
	// A commit must always be possible. So the node slots for its pages must be free now, including
	// those that data would break up.
	meta := a.meta(c)
	if c.promised {
		if nodeSlots < meta || free-layout.NodeBlocks*meta < need {
			return waitSpace
		}
		return admitted
	}
	held, heldMeta := v.ranges.held(a.granted.pins+c.pins > 0)
	held += a.granted.hold + c.hold
	if c.snaps { // it frees the space that a rollback owes
		held, heldMeta = 0, 0
	}
	if !c.snaps && (v.snap.newest.Load() > 0 || held > 0) {
		// With snapshots, deletes may take space without freeing any. Some of the reserve is left
		// for the deletion of snapshots, and to be lent to writes to reserved ranges.
		meta += a.reserveSlots / 2
	}
	if nodeSlots < meta+heldMeta/layout.NodeBlocks || free-layout.NodeBlocks*meta < need {
		return waitSpace
	}
	// Space for reserved ranges may be among the blocks that wait for I3: it will be free.
	if held > 0 && free+waiting-layout.NodeBlocks*meta-held < need {
		return waitSpace
	}
	// The reserve is for commits, which give it back, and for deletes. Data must not use it. Blocks
	// that wait for I3 will be free.
	if !c.urgent && free+waiting-layout.NodeBlocks*a.reserveSlots-held < need {
		return waitSpace
	}
	return admitted
}

// meta bounds the node slots that a commit would need now, plus what the reservation more adds. The
// caller holds mu.
func (a *admission) meta(more reservation) int64 {
	v := a.v
	// Each dirty inode and buffer may make a page dirty and split it. There are at most half as
	// many second copies of upper levels as there are pages.
	pages := a.nodes + a.granted.nodes + more.nodes + 2*a.buffers + a.inodes
	drops := a.pages + a.granted.pages + more.pages // each may drop a reference: to a dead list, or to a shared block
	dead := v.snap.deadNodes(drops + pages)
	return int64((pages+v.shares.OverwritePages(drops))*3/2+v.space.FreedRuns()/listRuns) + dead + commitNodes
}

// fullCommits is the number of commits without gain after which the volume is full. The first may
// have been running already, the second frees blocks, and after the third they are usable.
const fullCommits = 4

// passPause separates commits that only wait for restamp. Without it, a fast device would be done
// with all of them before restamp runs on a busy machine. Waiting for restamp itself is impossible,
// because it pauses while the volume is frozen.
const passPause = 5 * time.Millisecond

// reserve waits until c fits, and grants it. done ends the grant. The caller holds no lock that a
// commit or a flusher takes. It returns ErrNoSpace if commits have not freed enough, and the
// volume's own error if the volume has failed.
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
			if a.inTheWay(c) {
				a.cond.Wait()
				break
			}
			// Blocks that the next commit frees are usable after the commit that follows it. If
			// other operations got a grant meanwhile, they used what became free: that is a queue,
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
			if err := a.commitForSpace(c, passing); err != nil {
				return err
			}
		}
		if err := v.writable(); err != nil {
			return err
		}
	}
}

// commitForSpace waits for a commit that may free space for c. passing means that only restamp can
// free some. The caller holds mu, which is released meanwhile.
func (a *admission) commitForSpace(c reservation, passing bool) error {
	v := a.v
	if c.nested {
		a.stuck++
		defer func() { a.stuck-- }()
	}
	a.mu.Unlock()
	defer a.mu.Lock()
	if passing {
		<-time.After(passPause)
	}
	if !c.urgent { // deleted files count as free space at once
		v.background.reaper.wait()
	}
	return v.com.since(v.com.commits.Load())
}

// inTheWay reports whether c would fit without what other operations were granted and have not used
// yet. They end without our help and give back the rest, so commits meanwhile prove nothing. On a
// busy machine an operation can keep its grant for many commits. The caller holds mu.
func (a *admission) inTheWay(c reservation) bool {
	switch {
	case c.nested: // the other operations may wait for a lock of our caller
		return false
	case a.stuck > 0: // an operation with a grant waits for space, which c may be about to free
		return false
	case a.v.life.closing.Load(): // a rollback has a grant, and waits for the end of background work
		return false
	}
	granted := a.granted
	a.granted = reservation{}
	fits := a.tryRoom(c) == admitted
	a.granted = granted
	return fits
}

// full decides whether to give up: after a number of commits, of which the last vain ones followed
// the latest grant to anybody else.
func (a *admission) full(c reservation, vain, commits int) bool {
	v := a.v
	if (c.promised || c.urgent && !c.snaps && v.ranges.owed.Load() > 0) && v.ranges.freeing() {
		return false // after a rollback, ranges wait for the space of the old head
	}
	if vain == 1 && !c.promised && !c.snaps {
		v.ranges.wantRestamp()
	}
	if vain < fullCommits && commits < 32*fullCommits {
		return false
	}
	// Ranges that are no longer owed become free space. (restamp itself sets snaps.)
	return c.promised || c.snaps || commits >= 32*fullCommits || !v.ranges.restamping()
}

// reserveSlots is 1 % of the device, at least 16 MiB, in node slots.
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
