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

// A rotation of the data key.
//
// It begins with a new epoch in all key slots; from the moment that both copies
// of the header are durable, everything is sealed under it. A walk in the
// background then has all that the head reaches written again: data as any other
// dirty data, or once for all that share it (rotateshare.go), pages by making them dirty. How far it has come is part of each
// root, so that it goes on after a crash or at the next mount. A pass that finds
// nothing older any more is the proof that the old epoch may go; then the log's and the root
// slots' old contents are overwritten, and the epoch leaves the slots.
//
// Slots can only be sealed with their keys, which are at hand when it begins. So
// what each slot becomes in the end is sealed then, too, and waits in tree 5.

// DefaultRotationRate bounds what a rotation rewrites, in bytes a second.
const DefaultRotationRate = 128 << 20

// RotateOptions for RotateDataKey.
type RotateOptions struct {
	// Keys are those of the slots. Recovery slots need none.
	Keys []crypto.Credential
	// Drop removes the slots whose keys are not among Keys; otherwise these are an
	// error (ErrKeyMissing).
	Drop bool
	// Again begins another rotation although one is under way.
	Again bool
	// Resume goes on with a rotation that is under way, and begins none.
	Resume bool
	// BytesPerSecond bounds what is rewritten; 0: DefaultRotationRate, negative: no bound.
	BytesPerSecond int64
}

// RotationPhase is what a rotation does.
type RotationPhase string

// The phases of a rotation.
const (
	RotationNone      RotationPhase = "none"      // none is under way: one epoch
	RotationRewriting RotationPhase = "rewriting" // the walk
	RotationWaiting   RotationPhase = "waiting"   // for what Waits says
	RotationFinishing RotationPhase = "finishing" // the old epoch is being given up
)

// RotationStatus tells how far a rotation of the data key has come.
type RotationStatus struct {
	Phase  RotationPhase
	Epochs []uint32 // in the key slots
	Target uint32   // the epoch that everything gets; 0: none is under way
	// DoneBytes of about TotalBytes of data are under the target epoch.
	DoneBytes, TotalBytes uint64
	// Snapshots are the local snapshots that still need an older epoch.
	Snapshots []string
	Waits     string // what has to happen before it goes on; "" if nothing
	Dropped   []int  // slots that the call which began it removed
}

// rotator is the walk of a rotation.
type rotator struct {
	v *Volume

	target atomic.Uint32 // everything older is to be rewritten; 0: no rotation
	rate   atomic.Int64  // bytes a second; negative: no bound

	mu      sync.Mutex // a leaf lock
	changed sync.Cond  // of what follows
	version uint64     // counts these changes
	asked   uint64     // counts what may have ended a wait
	state   layout.Rotation
	phase   RotationPhase
	waits   string
	names   []string // snapshots
	bad     []string // what cannot be read, and so not be rewritten
	running bool
	stopped bool // for good: the volume closes
	shared  bool // the pass has left shared data alone; of the walk itself
	look    int  // references to shared data that are taken at a time

	hold  chan struct{} // of tests: the walk begins when it is closed; nil: at once
	moves func()        // of tests: called before each step of what is shared; nil: nothing
	woken chan struct{} // something changed that a waiting rotation looks at
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

// kick has a waiting rotation look again.
func (r *rotator) kick() {
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// current is what the next root says of the rotation.
func (r *rotator) current() layout.Rotation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

func (r *rotator) set(s layout.Rotation) { r.update(func() { r.state = s }) }

// update changes what people wait for.
func (r *rotator) update(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn()
	r.version++
	r.changed.Broadcast()
}

// met is told of each record that comes into the head. One of an older epoch was
// found elsewhere (a reflink of what the walk has not come to): it may be put
// where the walk has been.
func (r *rotator) met(epoch uint32) {
	if t := r.target.Load(); t != 0 && epoch < t {
		r.disturb()
	}
}

// disturb has the walk make another pass: older records came into the head.
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

// RotationStatus tells how far the rotation of the data key has come.
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

// WaitRotation returns when the rotation has ended, or waits for something that
// RotationStatus.Waits names. progress, which may be nil, is told now and then.
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
			_, s.Epochs = v.Keys() // of now
			return s, nil
		case !running:
			return s, vfs.ErrClosed
		case progress != nil:
			progress(s)
		}
	}
}

// start begins the walk, unless it is under way.
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

// end ends the walk for good: the next mount goes on.
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

// rotate is the whole of a rotation.
func (r *rotator) rotate() error {
	v := r.v
	if r.hold != nil {
		select {
		case <-r.hold:
		case <-r.quit:
			return errRotationStops
		}
	}
	// What was sealed before the new epoch was there is in a root after this, and
	// everything that follows is sealed under the new one.
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
		if t := r.target.Load(); spaceDone != t { // once: commits write it under the newest epoch
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
			if r.asked == asked { // else what it waits for may be there by now
				r.phase, r.waits, r.names = RotationWaiting, waits, names
			}
		})
		if err := r.wait(); err != nil {
			return err
		}
	}
}

// wait returns when somebody kicks.
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

// rotatePasses walks until a whole pass has found nothing of an older epoch.
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
				again = r.state.Again && len(r.bad) == 0 // else nothing more can be done now
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

// treeByID is a tree that the walk goes over, nil if there is none.
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
	return nil // the tree of space has its own way: rotateSpace
}
