package lock

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// DefaultSlack is by how much longer than asked an object is locked once it has to be: then the next
// snapshots need not extend its lock.
const DefaultSlack = 24 * time.Hour

// Options say how locks are extended. The zero value is good.
type Options struct {
	// Until is the time until which nothing can be deleted. Zero: from now on for the lock period of
	// the store.
	Until time.Time
	// Slack is by how much longer a lock is made that has to be extended. 0: DefaultSlack; negative:
	// none.
	Slack time.Duration
	// Known returns until when an object is known to be locked, or the zero time. Objects that are
	// known to be locked for long enough take no request. What the writer has put itself is locked for
	// the lock period since then; what its base lists, until the time that Extend returned for that.
	Known func(format.Name) time.Time
	// Parallel is how many requests run at once. 0: 16.
	Parallel int
	// Progress, if set, is told how many objects are done, of how many. Calls do not overlap.
	Progress func(done, total int)
}

// Report says what Extend found and did.
type Report struct {
	Objects  int // packs and pages of the list
	Asked    int // whose lock was not known
	Extended int
	// Until is a time until which nobody can delete any of the objects. Zero: the store has no lock.
	Until time.Time
}

// Extend makes sure that nothing of the list of h can be deleted before a time. It does nothing in a
// store without object lock. An object that is not there is an error: chunkstore.ErrNotFound.
func Extend(ctx context.Context, store chunkstore.Store, h *format.Head, o Options) (Report, error) {
	l := chunkstore.LockerOf(store)
	if l == nil {
		return Report{}, nil
	}
	period, err := l.LockPeriod(ctx)
	if err != nil || period == 0 {
		return Report{}, err
	}
	if o.Until.IsZero() {
		o.Until = time.Now().Add(period)
	}
	if o.Slack == 0 {
		o.Slack = DefaultSlack
	}
	if o.Parallel == 0 {
		o.Parallel = 16
	}
	x := &extender{store: store, lock: l, o: o, total: len(h.Pages) + int(h.Packs)}
	err = x.run(ctx, h)
	x.mu.Lock() // of what may still have run when the first error came
	defer x.mu.Unlock()
	if err != nil {
		return x.report, fmt.Errorf("extend the locks of snapshot %s: %w", h.S, err)
	}
	if x.report.Until.IsZero() { // nothing is listed
		x.report.Until = o.Until
	}
	return x.report, nil
}

type extender struct {
	store chunkstore.Store
	lock  chunkstore.Locker
	o     Options
	total int

	mu     sync.Mutex
	report Report // guarded by mu
}

func (x *extender) run(ctx context.Context, h *format.Head) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(x.o.Parallel)
	// Pages are read one after the other, while locks of their packs are extended: one page is in
	// memory, whatever the length of the list.
	for i := range h.Pages {
		ref := &h.Pages[i]
		g.Go(func() error { return x.object(ctx, ref.Name) })
		b, err := x.store.Get(ctx, ref.Name.Key(), nil, format.MaxPageBytes)
		if err == nil {
			var packs []format.PackEntry
			if packs, err = ref.CheckPage(b); err == nil {
				for j := range packs {
					name := packs[j].Name
					g.Go(func() error { return x.object(ctx, name) })
				}
				continue
			}
			err = fmt.Errorf("%s: %w", ref.Name, err)
		}
		g.Go(func() error { return err })
		break
	}
	return g.Wait()
}

// object extends one lock.
func (x *extender) object(ctx context.Context, n format.Name) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	var until time.Time
	if x.o.Known != nil {
		until = x.o.Known(n)
	}
	asked, extended := until.Before(x.o.Until), false
	if asked {
		var err error
		if until, extended, err = x.lock.Lock(ctx, n.Key(), x.o.Until, x.o.Until.Add(max(x.o.Slack, 0))); err != nil {
			return err
		}
	}
	x.done(until, asked, extended)
	return nil
}

func (x *extender) done(until time.Time, asked, extended bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r := &x.report
	r.Objects++
	if asked {
		r.Asked++
	}
	if extended {
		r.Extended++
	}
	if r.Until.IsZero() || until.Before(r.Until) {
		r.Until = until
	}
	if x.o.Progress != nil {
		x.o.Progress(r.Objects, x.total)
	}
}
