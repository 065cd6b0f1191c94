package volume

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
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
	bad     []string // what can not be read, and so not be rewritten
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
	return v.rotationStatus(epochs)
}

func (v *Volume) rotationStatus(epochs []uint32) RotationStatus {
	r := &v.rot
	free, _, _ := v.space.Counts()
	total := (v.sectors.Load() - v.dataStart - uint64(max(free, 0))) * layout.SectorBytes
	s := RotationStatus{Phase: r.phase, Epochs: epochs, Target: r.target.Load(), TotalBytes: total,
		DoneBytes: min(r.state.Done*layout.SectorBytes, total), Snapshots: slices.Clone(r.names), Waits: r.waits}
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
		s, running := v.rotationStatus(epochs), r.running
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

// RotateDataKey gives the volume a new data key. It returns once everything that
// is written from then on is sealed under it; the rest is rewritten in the
// background, also by later mounts. Called while a rotation is under way, it
// only takes what opens slots that could not be made again.
func (v *Volume) RotateDataKey(o RotateOptions) (RotationStatus, error) {
	v.rot.rate.Store(o.BytesPerSecond)
	if o.BytesPerSecond == 0 {
		v.rot.rate.Store(DefaultRotationRate)
	}
	var dropped []int
	err := v.changeKeys(func() (err error) {
		dropped, err = v.beginRotation(&o)
		return err
	})
	if err != nil {
		return RotationStatus{}, err
	}
	s := v.RotationStatus()
	s.Dropped = dropped
	return s, nil
}

func (v *Volume) beginRotation(o *RotateOptions) (dropped []int, err error) {
	k := &v.keys
	if v.rot.target.Load() == 0 && o.Resume {
		return nil, nil
	}
	if v.rot.target.Load() != 0 && !o.Again {
		return v.supplyNext(o)
	}
	if len(k.epochs) >= crypto.MaxEpochs {
		return nil, fmt.Errorf("%d epochs of the data key are in use: %s", len(k.epochs), v.RotationWaits())
	}
	vmk, err := crypto.GenerateKey()
	if err != nil {
		return nil, err
	}
	next := crypto.EpochKey{Epoch: k.epochs[len(k.epochs)-1].Epoch + 1, VMK: vmk}
	keys, err := crypto.DeriveEpochKeys(k.header.Suite, v.id, next.Epoch, vmk)
	if err != nil {
		vmk.Erase()
		return nil, err
	}
	dropped, err = v.switchEpoch(o, next, keys)
	if err != nil && v.store.Keys.Newest() != keys {
		keys.Erase()
		vmk.Erase()
	}
	return dropped, err
}

// RotationWaits is RotationStatus.Waits.
func (v *Volume) RotationWaits() string {
	v.rot.mu.Lock()
	defer v.rot.mu.Unlock()
	return v.rot.waits
}

// switchEpoch makes all slots again, with one more epoch, and seals by it from
// then on.
func (v *Volume) switchEpoch(o *RotateOptions, next crypto.EpochKey, keys *crypto.EpochKeys) (dropped []int, err error) {
	k := &v.keys
	epochs := append(slices.Clone(k.epochs), next)
	only := epochs[len(epochs)-1:]
	h := *k.header
	last := map[int]crypto.Slot{}
	var missing []int
	for i := range h.Slots {
		if h.Slots[i].Type == crypto.SlotEmpty {
			continue
		}
		key, ok := k.keyOf(i, o.Keys)
		if !ok {
			missing = append(missing, i)
			h.Slots[i] = crypto.Slot{}
			continue
		}
		if h.Slots[i], err = v.makeSlot(i, key, epochs); err != nil {
			return nil, err
		}
		if last[i], err = v.makeSlot(i, key, only); err != nil {
			return nil, err
		}
	}
	if len(missing) > 0 && !o.Drop {
		return nil, fmt.Errorf("%w: %s", ErrKeyMissing, slotNames(k.header, missing))
	}
	if len(last) == 0 {
		return nil, fmt.Errorf("no key slot would be left: %w", ErrLastKey)
	}
	// First what the slots become, so that it is there whenever the new epoch is.
	// Should the header not make it, the epoch in the root tells that it is void.
	before := v.rot.current()
	v.rot.set(layout.Rotation{Target: next.Epoch})
	if err := v.storeNext(last, keys); err != nil {
		v.rot.set(before)
		return nil, err
	}
	if err := v.writeHeaderUnder(&h, keys); err != nil {
		return nil, err
	}
	if slices.Contains(missing, k.slot) {
		k.slot = -1
	}
	k.epochs, k.next = epochs, last
	v.store.Keys.Add(keys)
	v.rot.target.Store(next.Epoch)
	if err := v.raiseFloor(); err != nil {
		return nil, err
	}
	v.startRotation()
	return missing, nil
}

// keyOf finds what a slot can be made again with.
func (k *keyring) keyOf(slot int, creds []crypto.Credential) (Key, bool) {
	s := &k.header.Slots[slot]
	if r, err := crypto.SlotRecipient(k.header.Suite, s); err == nil {
		return Key{Recipient: r}, true
	}
	for _, c := range creds {
		r, ok := c.(crypto.Recipient)
		if !ok || c.SlotType() != s.Type {
			continue
		}
		got, err := crypto.OpenSlot(k.header.Suite, k.header.ID, uint8(slot), s, c)
		if err != nil {
			continue
		}
		crypto.EraseEpochs(got)
		return Key{Recipient: r, Credential: c}, true
	}
	return Key{}, false
}

// supplyNext seals what slots become which a rotation found no keys for.
func (v *Volume) supplyNext(o *RotateOptions) (dropped []int, err error) {
	k := &v.keys
	var missing []int
	for i := range k.header.Slots {
		if _, ok := k.next[i]; ok || k.header.Slots[i].Type == crypto.SlotEmpty {
			continue
		}
		key, ok := k.keyOf(i, o.Keys)
		if !ok {
			missing = append(missing, i)
			continue
		}
		if err := v.addNext(i, key); err != nil {
			return nil, err
		}
	}
	if len(missing) > 0 && o.Drop && len(missing) < k.header.Count() {
		if err := v.removeKeys(missing); err != nil {
			return nil, err
		}
		dropped, missing = missing, nil
	}
	v.startRotation()
	if len(missing) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrKeyMissing, slotNames(k.header, missing))
	}
	return dropped, nil
}

// addNext seals what one slot becomes. The caller holds keys.mu.
func (v *Volume) addNext(slot int, key Key) error {
	k := &v.keys
	s, err := v.makeSlot(slot, key, k.epochs[len(k.epochs)-1:])
	if err != nil {
		return err
	}
	next := map[int]crypto.Slot{}
	for i, s := range k.next {
		next[i] = s
	}
	next[slot] = s
	if err := v.storeNext(next, v.store.Keys.Newest()); err != nil {
		return err
	}
	k.next = next
	return nil
}

// dropNext forgets slots that were removed.
func (v *Volume) dropNext(slots []int) error {
	next := map[int]crypto.Slot{}
	for i, s := range v.keys.next {
		if !slices.Contains(slots, i) {
			next[i] = s
		}
	}
	v.keys.next = next
	return v.storeNext(next, v.store.Keys.Newest())
}

// storeNext makes the slots that wait for the end of a rotation durable: next,
// and no others.
func (v *Volume) storeNext(next map[int]crypto.Slot, keys *crypto.EpochKeys) error {
	c := cost{quads: crypto.Slots, urgent: true, nested: true} // in changeKeys
	if err := v.admit(c); err != nil {
		return err
	}
	err := v.inGate(func() error { return v.putNext(next, keys.Commitment()) })
	v.adm.done(c)
	if err == nil {
		err = v.commitAll()
	}
	return v.syncErr(err)
}

func (v *Volume) putNext(next map[int]crypto.Slot, commit [32]byte) error {
	return v.anc.tree.Update(func(w *tree.Writer) error {
		for i := range crypto.Slots {
			s, ok := next[i]
			if !ok {
				if _, err := w.Delete(items.NextSlotKey(i)); err != nil {
					return err
				}
				continue
			}
			n := layout.NextSlot{Commit: commit, Slot: s}
			if err := w.Put(items.NextSlotKey(i), n.Append(nil)); err != nil {
				return err
			}
		}
		return nil
	})
}

// loadRotation takes up a rotation where the root says that it was. Nobody else
// uses the volume yet.
func (v *Volume) loadRotation(root *layout.Root) error {
	k := &v.keys
	newest := v.store.Keys.Newest()
	if len(k.epochs) == 1 {
		// Over, or never begun: the header decides. What it left is of no use.
		if root.Rotation.Target == 0 || v.opts.ReadOnly {
			return nil
		}
		return v.putNext(nil, [32]byte{})
	}
	s := layout.Rotation{Target: newest.Epoch()}
	if root.Rotation.Target == s.Target {
		s = root.Rotation
	}
	v.rot.set(s)
	v.rot.target.Store(s.Target)
	v.rot.tell(RotationRewriting, "", nil)
	k.next = map[int]crypto.Slot{}
	var derr error
	err := v.anc.tree.Scan(items.NextSlotKey(0), items.NextSlotKey(crypto.Slots-1), func(key layout.Key, val []byte) bool {
		var n layout.NextSlot
		if n, derr = layout.DecodeNextSlot(val); derr != nil {
			return false
		}
		if n.Commit == newest.Commitment() && k.header.Slots[key.Sub].Type == n.Slot.Type {
			k.next[int(key.Sub)] = n.Slot
		}
		return true
	})
	return errors.Join(err, derr)
}

// startRotation begins the walk, unless it is under way.
func (v *Volume) startRotation() {
	r := &v.rot
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
		err := v.rotate()
		if err != nil && !errors.Is(err, errRotationStops) && v.Failed() == nil && v.opts.Log != nil {
			v.opts.Log.Error("the rotation of the data key stopped; the next mount goes on with it", "volume", v.id.String(), "error", err)
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

// stopRotation ends the walk for good: the next mount goes on.
func (v *Volume) stopRotation() {
	r := &v.rot
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
func (v *Volume) rotate() error {
	if v.rot.hold != nil {
		select {
		case <-v.rot.hold:
		case <-v.rot.quit:
			return errRotationStops
		}
	}
	// What was sealed before the new epoch was there is in a root after this, and
	// everything that follows is sealed under the new one.
	if err := v.commitAll(); err != nil {
		return err
	}
	r := &v.rot
	for spaceDone := uint32(0); ; {
		r.mu.Lock()
		asked := r.asked
		r.mu.Unlock()
		if err := v.rotatePasses(); err != nil {
			return err
		}
		if t := v.rot.target.Load(); spaceDone != t { // once: commits write it under the newest epoch
			if err := v.rotateSpace(); err != nil {
				return err
			}
			spaceDone = t
		}
		waits, names, err := v.needsOld()
		if err != nil {
			return err
		}
		if waits == "" {
			done, err := v.retire()
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
func (v *Volume) rotatePasses() error {
	r := &v.rot
	for {
		s := r.current()
		if int(s.Tree) >= layout.Trees-1 { // the pass has ended
			if r.shared {
				if err := v.rotateShared(s.Target, r.look); err != nil {
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
			if err := v.commitAll(); err != nil {
				return err
			}
			continue
		}
		more, err := v.rotateStep(&s)
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
func (v *Volume) treeByID(id uint8) *tree.Tree {
	switch id {
	case layout.TreeFS:
		return v.fs
	case layout.TreeSnapshots:
		return v.snaps
	case layout.TreeShares:
		return v.shares.Tree
	case layout.TreeAnchors:
		return v.anc.tree
	}
	return nil // the tree of space has its own way: rotateSpace
}

// staleRun is a part of a file that is sealed under an older epoch.
type staleRun struct {
	sharedRef
	kept bool // a snapshot holds it
}

// rotateStep rewrites what one leaf holds, and the leaf itself. It moves s on.
func (v *Volume) rotateStep(s *layout.Rotation) (more bool, err error) {
	t := v.treeByID(s.Tree)
	if t == nil {
		return false, nil
	}
	var stale []staleRun
	var first layout.Key
	old, sectors, newest := false, uint64(0), v.snap.newest.Load()
	next, more, err := t.Leaf(s.Next, func(l tree.Leaf) {
		first = l.Key(l.First)
		old = l.Epoch != 0 && l.Epoch < s.Target
		for i := l.First; i < l.Count(); i++ {
			k, val := l.Key(i), l.Value(i)
			if s.Tree != layout.TreeFS || k.Type != layout.KeyExtent {
				continue
			}
			n := layout.ExtentSectors(val)
			sectors += n
			if n > 0 && recordEpoch(val) < s.Target {
				stale = append(stale, staleRun{refOf(k, val), refBirth(val) <= newest})
			}
		}
	})
	if err != nil {
		return false, txn.Wrap(fmt.Errorf("tree %d: %w", s.Tree, err))
	}
	for _, x := range stale {
		// As of now; resealBlock knows for sure.
		if shared, err := v.sharedNow(&x.sharedRef); err != nil {
			return false, err
		} else if shared {
			v.rot.shared = true
			continue
		}
		if err := v.reseal(x, s.Target); err != nil {
			return false, err
		}
	}
	if old {
		if err := v.rotatePage(t, first); err != nil {
			return false, err
		}
	}
	s.Again = s.Again || old || len(stale) > 0
	s.Next = next
	s.Done += sectors
	return more, nil
}

// recordEpoch is the epoch of a stored extent record.
func recordEpoch(b []byte) uint32 { return binary.LittleEndian.Uint32(b[40:]) }

// refBirth is the generation in which a stored file extent's reference was made.
func refBirth(b []byte) uint64 { return binary.LittleEndian.Uint64(b[len(b)-layout.FileExtentBytes:]) }

// rotatePage has a leaf written again.
func (v *Volume) rotatePage(t *tree.Tree, first layout.Key) error {
	if err := v.rot.pace(layout.NodeBytes); err != nil {
		return err
	}
	c := cost{quads: opQuads, urgent: true}
	if err := v.admitRotation(c, v.snap.newest.Load() != 0); err != nil {
		return err
	}
	defer v.adm.done(c)
	return v.inGate(func() error {
		return t.Update(func(w *tree.Writer) error { return w.Touch(first) })
	})
}

// admitRotation is admit, and on a full volume waits until there is room. kept says
// that a snapshot keeps what is rewritten: it takes its space once more, and a part
// of the volume is left to those who use it.
func (v *Volume) admitRotation(c cost, kept bool) error {
	for {
		if v.rot.quitting() {
			return errRotationStops
		}
		need, waits := int64(0), "the volume is full"
		if kept {
			need, waits = v.rotationSpares()+int64(c.pages+v.adm.dirtyCount()), nearlyFull
		}
		if v.room() >= need {
			err := v.admit(c)
			if !errors.Is(err, vfs.ErrNoSpace) {
				return err
			}
		}
		// Trying again has commits made, which wake us: only when there is more room.
		room := max(v.room(), need) + blockPages*blockPages
		v.rot.tell(RotationWaiting, waits, nil)
		for v.room() < room && (!kept || v.snap.newest.Load() != 0) {
			if err := v.rot.wait(); err != nil {
				return err
			}
		}
		kept = kept && v.snap.newest.Load() != 0
		v.rot.tell(RotationRewriting, "", nil)
	}
}

// nearlyFull is what a rotation waits for that would fill the volume.
const nearlyFull = "the volume is nearly full, and local snapshots keep what is rewritten: delete some of them, or files, or grow it"

// rotationSpares is how many free sectors a rotation leaves where snapshots keep
// what it rewrites: a sixteenth of the volume.
func (v *Volume) rotationSpares() int64 {
	v.adm.mu.Lock()
	defer v.adm.mu.Unlock()
	return max(2*v.adm.reserve*layout.QuadSectors, int64(v.sectors.Load()/16))
}

// room is the number of sectors that are free, or will be.
func (v *Volume) room() int64 {
	free, _, waiting := v.space.Counts()
	return free + waiting
}

// pace keeps the walk to its rate.
func (r *rotator) pace(n uint64) error {
	rate := r.rate.Load()
	if rate <= 0 {
		return nil
	}
	select {
	case <-time.After(time.Duration(n) * time.Second / time.Duration(rate)):
		return nil
	case <-r.quit:
		return errRotationStops
	}
}

// reseal makes what is stale of a part of a file dirty, so that it is written
// again as any other data. What it holds stays; no operation is logged.
func (v *Volume) reseal(x staleRun, target uint32) error {
	for end := x.sector + uint64(x.count); x.sector < end; {
		n := min(end, (x.sector/blockPages+1)*blockPages) - x.sector // one block at a time
		if err := v.rot.pace(n * pageBytes); err != nil {
			return err
		}
		dead, err := v.resealBlock(&x, n, target)
		if dead {
			v.reaper.wait() // it is being removed
		}
		if errors.Is(err, vfs.ErrCorrupt) || errors.Is(err, vfs.ErrIO) && v.Failed() == nil {
			v.rot.unreadable(err)
			err = nil
		}
		if err != nil {
			return err
		}
		x.sector += n
	}
	return nil
}

// unreadable notes what can not be rewritten.
func (r *rotator) unreadable(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.bad) < 10 {
		r.bad = append(r.bad, err.Error())
	}
}

func (v *Volume) resealBlock(x *staleRun, count uint64, target uint32) (dead bool, err error) {
	ino, sector := x.ino, x.sector
	// What it takes it gives back, unless a snapshot keeps that: a full volume has the reserve for it.
	c := cost{pages: int(count) + 1, quads: opQuads, urgent: !x.kept}
	if err := v.admitRotation(c, x.kept); err != nil {
		return false, err
	}
	defer v.adm.done(c)
	in, err := v.inode(vfs.Ino(ino))
	if errors.Is(err, vfs.ErrStale) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer v.table.put(in)
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.dead || !in.isReg() {
		return true, nil
	}
	if err := v.cutRest(in); err != nil {
		return false, err
	}
	es, err := v.extents(ino, sector, sector+count, 0)
	if err != nil {
		return false, txn.Wrap(err)
	}
	defer v.unload(in)
	for i := range es {
		if es[i].Epoch < target && err == nil {
			err = v.resealExtent(in, &es[i], max(sector, es[i].Sector), min(sector+count, es[i].End()))
		}
	}
	return false, err
}

// resealExtent makes sectors [from, to) of a file dirty, which an extent has alone.
// The caller holds in.mu: nobody makes a copy of it meanwhile.
func (v *Volume) resealExtent(in *inode, e *items.Placed, from, to uint64) error {
	run := layout.Run{Start: e.Addr/layout.SectorBytes + from - e.Sector, Count: uint32(to - from)}
	switch most, err := v.shares.Most(run); {
	case err != nil:
		return txn.Wrap(err)
	case most > 0:
		v.rot.shared = true
		return nil
	}
	if err := v.loadRun(in, from, to); err != nil {
		return err
	}
	return v.inGate(func() error {
		for s := from; s < to; s++ {
			v.markDirty(in, s)
		}
		return nil
	})
}

// loadRun is loadPage for the sectors [from, to) of one block, with one read.
func (v *Volume) loadRun(in *inode, from, to uint64) error {
	buf := make([]byte, (to-from)*pageBytes)
	if off := from * pageBytes; off < in.attr.Size {
		pin := v.space.Pin()
		defer v.space.Unpin(pin)
		plan, err := v.planRead(in, off, buf[:min(uint64(len(buf)), in.attr.Size-off)])
		if err == nil {
			err = plan.run(v.store)
		}
		if err != nil {
			return txn.Wrap(fmt.Errorf("inode %d at %d: %w", in.ino, off, err))
		}
	}
	in.bmu.Lock()
	defer in.bmu.Unlock()
	b := v.block(in, from/blockPages)
	for s := from; s < to; s++ {
		i := s % blockPages
		if b.pages[i] == nil { // what is in memory is as new
			b.pages[i] = pagePool.Get().(*page)
			copy(b.pages[i][:], buf[(s-from)*pageBytes:])
		}
		b.held |= 1 << i
		in.loaded = append(in.loaded, s)
	}
	return nil
}

// spaceBatch is how many regions of the tree of space one commit writes again.
const spaceBatch = 16

// rotateSpace has the tree of space written again, which commits alone change: by
// making them believe that regions have changed.
func (v *Volume) rotateSpace() error {
	target := v.rot.target.Load()
	for {
		regions, err := v.staleRegions(target)
		if err != nil || len(regions) == 0 {
			return err
		}
		if err := v.rot.pace(uint64(len(regions)) * layout.NodeBytes); err != nil {
			return err
		}
		c := cost{quads: 4*len(regions) + opQuads, urgent: true}
		if err := v.admitRotation(c, false); err != nil {
			return err
		}
		for _, idx := range regions {
			if err = v.space.Touch(idx); err != nil {
				break
			}
		}
		if err == nil {
			err = v.commitAll()
		}
		v.adm.done(c)
		if err != nil {
			return txn.Wrap(err)
		}
	}
}

// staleRegions returns regions by which stale pages of the tree of space are written.
func (v *Volume) staleRegions(target uint32) (regions []uint64, err error) {
	for from, more := (layout.Key{}), true; more && len(regions) < spaceBatch; {
		from, more, err = v.spaces.Leaf(from, func(l tree.Leaf) {
			if l.Epoch == 0 || l.Epoch >= target {
				return
			}
			switch k := l.Key(l.First); k.Type {
			case layout.KeyGroup:
				regions = append(regions, k.Sub*layout.GroupRegions)
			case layout.KeyTop:
				regions = append(regions, k.Sub*layout.TopGroups*layout.GroupRegions)
			default:
				regions = append(regions, k.Sub)
			}
		})
		if err != nil {
			return nil, txn.Wrap(fmt.Errorf("tree of space: %w", err))
		}
	}
	return regions, nil
}

// needsOld says what still needs an epoch below the target; "" if nothing does.
func (v *Volume) needsOld() (waits string, snapshots []string, err error) {
	target := v.rot.target.Load()
	r := &v.rot
	r.mu.Lock()
	bad := slices.Clone(r.bad)
	r.mu.Unlock()
	if len(bad) > 0 {
		return "what can not be read can not be rewritten; delete these files, or restore them: " + strings.Join(bad, "; "), nil, nil
	}
	for _, s := range v.snapshotEpochs() {
		if s.oldest < target {
			snapshots = append(snapshots, s.name)
		}
	}
	if len(snapshots) > 0 {
		return "local snapshots need the old key until they are deleted: " + strings.Join(snapshots, ", "), snapshots, nil
	}
	a := &v.anc
	a.mu.Lock()
	kept := a.newest.gen != 0 || len(a.offered) > 0
	epoch := a.newest.Epoch
	a.mu.Unlock()
	if kept && epoch < target {
		return "the root anchor that is kept is of the old key: confirm a new one", nil, nil
	}
	k := &v.keys
	k.mu.Lock()
	defer k.mu.Unlock()
	var missing []int
	for i := range k.header.Slots {
		if _, ok := k.next[i]; !ok && k.header.Slots[i].Type != crypto.SlotEmpty {
			missing = append(missing, i)
		}
	}
	if len(missing) > 0 {
		return fmt.Sprintf("%v: %s", ErrKeyMissing, slotNames(k.header, missing)), nil, nil
	}
	return "", nil, nil
}

// snapshotEpoch is a local snapshot and the oldest key epoch that it needs.
type snapshotEpoch struct {
	name   string
	oldest uint32
}

// retire gives the old epochs up, which nothing needs any more. done is false if
// something came in between.
func (v *Volume) retire() (done bool, err error) {
	v.rot.tell(RotationFinishing, "", nil)
	target := v.rot.target.Load()
	// The log first, whose places are free by now: old frames hold data. Then all
	// root slots.
	if err := v.wipeLog(); err != nil {
		return false, err
	}
	for range layout.RootSlots {
		if v.rot.quitting() {
			return false, errRotationStops
		}
		if err := v.commitThawed(); err != nil {
			return false, err
		}
	}
	err = v.changeKeys(func() (err error) {
		done, err = v.dropEpochs(target)
		return err
	})
	return done, err
}

// commitThawed is commitAll, and commits even if a freeze has just done so.
func (v *Volume) commitThawed() error {
	if err := v.enter(context.Background()); err != nil { // Close thaws
		return err
	}
	defer v.leave()
	return v.commitAll()
}

// dropEpochs takes all epochs but the target from the slots, and from memory. In changeKeys.
func (v *Volume) dropEpochs(target uint32) (done bool, err error) {
	k := &v.keys
	if s := v.rot.current(); s.Target != target || s.Again || int(s.Tree) < layout.Trees-1 {
		return false, nil
	}
	h := *k.header
	for i := range h.Slots {
		if h.Slots[i].Type == crypto.SlotEmpty {
			continue
		}
		next, ok := k.next[i]
		if !ok {
			return false, nil // needsOld says so
		}
		h.Slots[i] = next
	}
	if err := v.writeHeader(&h); err != nil {
		return false, err
	}
	if err := v.raiseFloor(); err != nil {
		return false, err
	}
	// Readers that found something before the walk came by are done.
	v.space.Drain()
	n := len(k.epochs) - 1
	crypto.EraseEpochs(k.epochs[:n])
	k.epochs, k.next = slices.Clone(k.epochs[n:]), nil
	v.store.Keys.DropBelow(target)
	v.rot.target.Store(0)
	v.rot.set(layout.Rotation{})
	if err := v.storeNext(nil, v.store.Keys.Newest()); err != nil {
		return false, err
	}
	v.rot.tell(RotationNone, "", nil)
	return true, nil
}

// wipeLog overwrites what the log holds of older epochs.
func (v *Volume) wipeLog() error {
	// Frames of before the new epoch are needed by neither of the two newest roots.
	for range 2 {
		if err := v.commitThawed(); err != nil {
			return err
		}
	}
	const step = 256
	for at := uint64(0); at < v.log.Frames(); at += step {
		if v.rot.quitting() {
			return errRotationStops
		}
		if err := v.rot.pace(step * layout.SectorBytes); err != nil {
			return err
		}
		if err := v.enter(context.Background()); err != nil { // not while frozen; Close thaws
			return err
		}
		err := v.sync.alone(func() error {
			err := v.log.Wipe(at, step)
			v.fail(err) // before the next sync
			return err
		})
		v.leave()
		if err != nil {
			return err
		}
	}
	return nil
}
