package volume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// ErrFreezeLimit means that a freeze has no time limit. It must have one, so that it ends even if
// its owner dies.
var ErrFreezeLimit = errors.New("a freeze needs a time limit")

// Freeze is a freeze of a volume: everything acknowledged is in the newest root, and nothing is
// written to the device until Thaw or until the limit has passed. Reads continue, and so does Sync,
// which has nothing to do. Changes wait.
type Freeze struct {
	v     *Volume
	timer *time.Timer
	once  sync.Once
	ended chan struct{}
	held  bool // until the owner calls Thaw
}

// freezer tracks who has frozen the volume.
type freezer struct {
	v *Volume

	mu   sync.Mutex
	held map[*Freeze]struct{}
}

// Freeze freezes the volume: it waits for running changes, commits, and holds back everything that
// would write to the device, for at most limit. Several freezes at a time count as one, which the
// last of them ends. ctx ends only the waiting.
func (v *Volume) Freeze(ctx context.Context, limit time.Duration) (*Freeze, error) {
	if limit <= 0 {
		return nil, ErrFreezeLimit
	}
	if err := v.Failed(); err != nil {
		return nil, fmt.Errorf("%w: %w", vfs.ErrReadOnly, err)
	}
	if err := v.adm.hold(ctx, v); err != nil {
		return nil, err
	}
	if err := v.frozen.quiesce(); err != nil {
		v.adm.release()
		return nil, err
	}
	f := &Freeze{v: v, ended: make(chan struct{})}
	v.frozen.mu.Lock()
	defer v.frozen.mu.Unlock()
	if v.life.closing.Load() { // Close ends the freezes that it finds
		f.letGo()
		return nil, vfs.ErrClosed
	}
	if v.frozen.held == nil {
		v.frozen.held = map[*Freeze]struct{}{}
	}
	v.frozen.held[f] = struct{}{}
	f.timer = time.AfterFunc(limit, func() { f.end(false) })
	return f, nil
}

// quiesce commits what was acknowledged, and stops the committer. No changes are running.
func (f *freezer) quiesce() error {
	v := f.v
	if v.ring == nil {
		return nil
	}
	if err := v.com.commitData(); err != nil {
		return v.sync.syncErr(err)
	}
	c := &v.com
	c.run.Lock() // a commit that is already running ends first
	c.mu.Lock()
	c.quiet++
	c.cond.Broadcast()
	c.mu.Unlock()
	c.run.Unlock()
	v.sync.letPass() // it began before the commit ended; the next sync finds everything durable
	if err := v.Failed(); err != nil {
		f.unquiet()
		return fmt.Errorf("%w: %w", vfs.ErrReadOnly, err)
	}
	return nil
}

func (f *freezer) unquiet() {
	v := f.v
	c := &v.com
	c.mu.Lock()
	defer c.mu.Unlock()
	c.quiet--
	c.cond.Broadcast()
}

// whileAwake runs fn, which writes something to the device that is not part of a commit. It waits
// until no freeze is in effect. A freeze that begins meanwhile waits for the end of fn, as commits
// do. The caller may hold locks of a commit. fn must not wait for a commit.
func (f *freezer) whileAwake(fn func() error) error {
	v := f.v
	c := &v.com
	for {
		c.run.Lock()
		c.mu.Lock()
		quiet := c.quiet > 0
		c.mu.Unlock()
		if !quiet {
			defer c.run.Unlock()
			return fn()
		}
		c.run.Unlock()
		c.mu.Lock()
		for c.quiet > 0 && v.Failed() == nil {
			c.cond.Wait()
		}
		c.mu.Unlock()
		if err := v.writable(); err != nil {
			return err
		}
	}
}

// Thaw ends the freeze. It returns false if the volume was not frozen the whole time, because the
// limit passed or somebody else thawed it.
func (f *Freeze) Thaw() bool {
	f.end(true)
	return f.held
}

// Ended is closed when the freeze has ended, for any reason.
func (f *Freeze) Ended() <-chan struct{} { return f.ended }

func (f *Freeze) end(byOwner bool) {
	f.once.Do(func() {
		f.held = byOwner && f.v.Failed() == nil
		f.v.frozen.mu.Lock()
		f.timer.Stop()
		delete(f.v.frozen.held, f)
		f.v.frozen.mu.Unlock()
		f.letGo()
		close(f.ended)
	})
}

func (f *Freeze) letGo() {
	if f.v.ring != nil {
		f.v.frozen.unquiet()
	}
	f.v.adm.release()
}

// Thaw ends all freezes, regardless of their owners, and returns their number.
func (v *Volume) Thaw() int {
	v.frozen.mu.Lock()
	var all []*Freeze
	for f := range v.frozen.held {
		all = append(all, f)
	}
	v.frozen.mu.Unlock()
	for _, f := range all {
		f.end(false)
	}
	return len(all)
}

// Frozen returns the number of freezes in effect.
func (v *Volume) Frozen() int {
	v.frozen.mu.Lock()
	defer v.frozen.mu.Unlock()
	return len(v.frozen.held)
}

// OnPark sets a function that is called with 1 when a call begins to wait for a thaw, and with -1
// when it continues. A server that limits concurrent calls can admit others meanwhile. fn must be
// fast, and must be set before the first call.
func (v *Volume) OnPark(fn func(n int)) {
	v.adm.mu.Lock()
	defer v.adm.mu.Unlock()
	v.adm.parked = fn
}

// hold stops new changes, and waits for operations that have a reservation.
func (a *admission) hold(ctx context.Context, v *Volume) error {
	stop := context.AfterFunc(ctx, a.wake)
	defer stop()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.holds++
	for a.active > 0 {
		err := ctx.Err()
		if failed := v.Failed(); failed != nil {
			err = fmt.Errorf("%w: %w", vfs.ErrReadOnly, failed)
		}
		if v.life.closing.Load() { // a rollback closes the volume with a reservation, and waits for operations that need one
			err = vfs.ErrClosed
		}
		if err != nil {
			a.holds--
			a.cond.Broadcast()
			return err
		}
		a.cond.Wait()
	}
	return nil
}

func (a *admission) release() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.holds--
	a.cond.Broadcast()
}

// enter begins background work that writes to the device. It waits while the volume is frozen.
// leave ends the work. It fails when ctx ends or the volume is no longer writable. The caller holds
// no locks.
func (f *freezer) enter(ctx context.Context) error {
	v := f.v
	a := &v.adm
	stop := context.AfterFunc(ctx, a.wake)
	defer stop()
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := v.writable(); err != nil {
			return err
		}
		if a.holds == 0 {
			a.active++
			return nil
		}
		a.cond.Wait()
	}
}

func (f *freezer) leave() {
	v := f.v
	a := &v.adm
	a.mu.Lock()
	defer a.mu.Unlock()
	a.active--
	a.cond.Broadcast()
}
