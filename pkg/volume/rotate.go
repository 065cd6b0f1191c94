package volume

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Rotation of the data key.
//
// It begins with a new epoch in all key slots. Once both copies of the header are durable,
// everything is sealed under the new epoch. A walk in the background then rewrites everything that
// the head reaches: unshared data like other dirty data, shared data once for all its references
// (rotateshare.go), and pages by making them dirty. Each root records its progress, so it continues
// after a crash or at the next mount. A pass that finds nothing older proves that the old epoch is
// no longer needed. Then the old contents of the log and the root slots are overwritten, and the
// epoch is removed from the slots.
//
// Slots can only be sealed with their keys, which are available at the start. So the final content
// of each slot is sealed then, too, and stored in tree 5.

// DefaultRotationRate is the default rate of rewriting, in bytes per second.
const DefaultRotationRate = 128 << 20

// RotateOptions configures RotateDataKey.
type RotateOptions struct {
	// Keys are the keys of the slots. Recovery slots need none.
	Keys []crypto.Credential
	// Drop removes slots whose keys are not in Keys. Without it, such slots are an error
	// (ErrKeyMissing).
	Drop bool
	// Again begins another rotation even if one is running.
	Again bool
	// Resume continues a running rotation, and does not begin one.
	Resume bool
	// BytesPerSecond limits the rate of rewriting; 0: DefaultRotationRate, negative: no limit.
	BytesPerSecond int64
}

// RotationPhase is the current phase of a rotation.
type RotationPhase string

// The phases of a rotation.
const (
	RotationNone      RotationPhase = "none"      // not running: one epoch
	RotationRewriting RotationPhase = "rewriting" // the walk
	RotationWaiting   RotationPhase = "waiting"   // for the reason in Waits
	RotationFinishing RotationPhase = "finishing" // the old epoch is being removed
)

// RotationStatus describes the progress of a rotation of the data key.
type RotationStatus struct {
	Phase  RotationPhase
	Epochs []uint32 // in the key slots
	Target uint32   // the epoch of the rotation; 0: not running
	// DoneBytes of approximately TotalBytes of data are under the target epoch.
	DoneBytes, TotalBytes uint64
	// Snapshots are the local snapshots that still need an older epoch.
	Snapshots []string
	Waits     string // what must happen before it continues; "" if nothing
	Dropped   []int  // slots removed by the call that began it
}

// rotator runs the walk of a rotation.
type rotator struct {
	v *Volume

	target atomic.Uint32 // everything older is rewritten; 0: no rotation
	rate   atomic.Int64  // bytes per second; negative: no limit

	mu      sync.Mutex // a leaf lock
	changed sync.Cond  // signals changes of the fields below
	version uint64     // number of these changes
	asked   uint64     // number of events that may end a wait
	state   layout.Rotation
	phase   RotationPhase
	waits   string
	names   []string // snapshots
	bad     []string // data that cannot be read, and so not be rewritten
	running bool
	stopped bool // permanently: the volume is being closed
	shared  bool // the pass skipped shared data; used only by the walk
	look    int  // references to shared data that one look collects

	hold  chan struct{} // for tests: the walk begins when it is closed; nil: at once
	moves func()        // for tests: called before each step on shared data
	woken chan struct{} // wakes a waiting rotation
	quit  chan struct{}
	done  chan struct{}
}

func (r *rotator) init(memory int) {
	r.changed.L = &r.mu
	r.look = memory / 16 / sharedRefBytes / 2
	r.phase = RotationNone
	r.rate.Store(DefaultRotationRate)
	r.woken, r.quit, r.done = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
}

// kick makes a waiting rotation check again.
func (r *rotator) kick() {
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// current is the rotation's state for the next root.
func (r *rotator) current() layout.Rotation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

func (r *rotator) set(s layout.Rotation) { r.update(func() { r.state = s }) }

// update changes fields that others wait for.
func (r *rotator) update(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn()
	r.version++
	r.changed.Broadcast()
}

// met is called for each record that enters the head. A record of an older epoch came from
// elsewhere (a reflink of data that the walk has not reached). It may have been put where the walk
// already was.
func (r *rotator) met(epoch uint32) {
	if t := r.target.Load(); t != 0 && epoch < t {
		r.disturb()
	}
}

// disturb requests another pass, because older records entered the head.
func (r *rotator) disturb() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state.Target != 0 {
		r.state.Again = true
	}
}

func (r *rotator) tell(phase RotationPhase, waits string, names []string) {
	r.update(func() { r.phase, r.waits, r.names = phase, waits, names })
}

// RotationStatus returns the progress of the rotation of the data key.
func (v *Volume) RotationStatus() RotationStatus {
	_, epochs := v.Keys()
	r := &v.rot
	r.mu.Lock()
	defer r.mu.Unlock()
	return v.rot.status(epochs)
}

func (r *rotator) status(epochs []uint32) RotationStatus {
	v := r.v
	free, _, _ := v.space.Counts()
	total := (v.blocks.Load() - v.dataStart - uint64(max(free, 0))) * layout.BlockBytes
	s := RotationStatus{Phase: r.phase, Epochs: epochs, Target: r.target.Load(), TotalBytes: total,
		DoneBytes: min(r.state.Done*layout.BlockBytes, total), Snapshots: slices.Clone(r.names), Waits: r.waits}
	if int(r.state.Tree) >= layout.Trees-1 && len(r.bad) == 0 {
		s.DoneBytes = total
	}
	if s.Phase == RotationNone {
		s.DoneBytes, s.TotalBytes = 0, 0
	}
	return s
}

// WaitRotation waits until the rotation has ended, or waits for something that RotationStatus.Waits
// describes. progress may be nil. It is called now and then.
func (v *Volume) WaitRotation(ctx context.Context, progress func(RotationStatus)) (RotationStatus, error) {
	r := &v.rot
	stop := context.AfterFunc(ctx, func() { r.update(func() {}) })
	defer stop()
	for seen := uint64(0); ; {
		_, epochs := v.Keys()
		r.mu.Lock()
		for r.version == seen && r.running && ctx.Err() == nil {
			r.changed.Wait()
		}
		seen = r.version
		s, running := v.rot.status(epochs), r.running
		r.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return s, ctx.Err()
		case v.Failed() != nil:
			return s, v.writable()
		case s.Phase == RotationWaiting || s.Phase == RotationNone:
			_, s.Epochs = v.Keys() // current ones
			return s, nil
		case !running:
			return s, vfs.ErrClosed
		case progress != nil:
			progress(s)
		}
	}
}

// start starts the walk, unless it is running.
func (r *rotator) start() {
	v := r.v
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	r.phase, r.waits, r.names, r.bad = RotationRewriting, "", nil, nil
	r.asked++
	r.kick()
	if r.running {
		return
	}
	r.running = true
	go func() {
		defer close(r.done)
		err := r.rotate()
		if err != nil && !errors.Is(err, errRotationStops) && v.Failed() == nil && v.opts.Log != nil {
			v.opts.Log.Error("rotation of the data key stopped; the next mount resumes it", "volume", v.id.String(), "error", err)
		}
		r.update(func() {
			r.running = false
			if err != nil && !errors.Is(err, errRotationStops) {
				r.phase, r.waits = RotationWaiting, err.Error()
			}
			r.done = make(chan struct{}) // another one may begin
		})
	}()
}

// end ends the walk. The next mount continues it.
func (r *rotator) end() {
	r.mu.Lock()
	r.stopped = true
	close(r.quit)
	running, done := r.running, r.done
	r.mu.Unlock()
	if running {
		<-done
	}
}

var errRotationStops = errors.New("the volume is being closed")

// rotate runs a whole rotation.
func (r *rotator) rotate() error {
	v := r.v
	if r.hold != nil {
		select {
		case <-r.hold:
		case <-r.quit:
			return errRotationStops
		}
	}
	// After this commit, a root covers everything sealed before the new epoch existed. Everything
	// later is sealed under the new epoch.
	if err := v.com.commitAll(); err != nil {
		return err
	}
	for spaceDone := uint32(0); ; {
		r.mu.Lock()
		asked := r.asked
		r.mu.Unlock()
		if err := r.rotatePasses(); err != nil {
			return err
		}
		if t := r.target.Load(); spaceDone != t { // only once: commits seal it under the newest epoch
			if err := r.rotateSpace(); err != nil {
				return err
			}
			spaceDone = t
		}
		waits, names, err := r.needsOld()
		if err != nil {
			return err
		}
		if waits == "" {
			done, err := r.retire()
			if done || err != nil {
				return err
			}
			continue
		}
		r.update(func() {
			if r.asked == asked { // otherwise what it waits for may have happened
				r.phase, r.waits, r.names = RotationWaiting, waits, names
			}
		})
		if err := r.wait(); err != nil {
			return err
		}
	}
}

// wait returns after the next kick.
func (r *rotator) wait() error {
	select {
	case <-r.woken:
		return nil
	case <-r.quit:
		return errRotationStops
	}
}

func (r *rotator) quitting() bool {
	select {
	case <-r.quit:
		return true
	default:
		return false
	}
}

// rotatePasses walks until a whole pass finds nothing of an older epoch.
func (r *rotator) rotatePasses() error {
	v := r.v
	for {
		s := r.current()
		if int(s.Tree) >= layout.Trees-1 { // the pass has ended
			if r.shared {
				if err := r.rotateShared(s.Target, r.look); err != nil {
					return err
				}
				r.shared = false
			}
			again := false
			r.update(func() {
				again = r.state.Again && len(r.bad) == 0 // otherwise nothing more can be done now
				if again {
					r.state = layout.Rotation{Target: r.state.Target, Done: s.Done}
					r.phase, r.waits, r.names = RotationRewriting, "", nil
				}
			})
			if !again {
				return nil
			}
			// What this pass made dirty is old in the tree until it is flushed.
			if err := v.com.commitAll(); err != nil {
				return err
			}
			continue
		}
		more, err := r.rotateStep(&s)
		if err != nil {
			return err
		}
		r.update(func() {
			if r.state.Target != s.Target {
				return // another rotation starts from the beginning
			}
			s.Again = s.Again || r.state.Again
			if !more {
				s.Tree, s.Next = s.Tree+1, layout.Key{}
			}
			r.state = s
		})
		if r.quitting() {
			return errRotationStops
		}
	}
}

// treeByID returns a tree that the walk visits, nil if there is none.
func (r *rotator) treeByID(id uint8) *tree.Tree {
	v := r.v
	switch id {
	case layout.TreeFS:
		return v.fs
	case layout.TreeSnapshots:
		return v.snap.tree
	case layout.TreeShares:
		return v.shares.Tree
	case layout.TreeAnchors:
		return v.anc.tree
	}
	return nil // rotateSpace handles the space tree
}
