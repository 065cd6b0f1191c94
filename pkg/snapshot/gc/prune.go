package gc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// Errors of this package; compare with errors.Is.
var (
	// ErrBusy: another pruner deleted what this one was about to read. Nothing
	// was deleted since; run it again.
	ErrBusy = errors.New("another pruner is at work on this store")
	// ErrUnconditional: the store replaces objects that Put should leave alone.
	ErrUnconditional = errors.New("the store does not know conditional puts (If-None-Match), so that pruning could delete what is being written")
	// ErrDamaged: a snapshot's list cannot be read. Nothing is deleted while
	// it is not known what the snapshot needs: restore the object, or forget the
	// snapshot.
	ErrDamaged = errors.New("the list of what a snapshot needs is damaged")
)

// Defaults of Options.
const (
	DefaultUndelete = 72 * time.Hour
	DefaultGrace    = 24 * time.Hour
	// MinEventualGrace is the least grace in a store whose listings may lag.
	MinEventualGrace = 24 * time.Hour
)

// Options say how a store is pruned. The zero value is good.
type Options struct {
	// Undelete is how long a forgotten snapshot can be undeleted. 0:
	// DefaultUndelete; negative: not at all.
	Undelete time.Duration
	// Grace is the time between condemning an object and deleting it: a margin
	// for people, and for stores whose listings lag. 0: DefaultGrace; negative:
	// none.
	Grace time.Duration
	// DryRun reports what would be done, and writes nothing but the probes.
	DryRun bool
	// Parallel is how many requests run at once. 0: 16.
	Parallel int

	skip      skipped // for the model: rules to leave out
	probeless bool    // for the model: the store is known
}

// skipped are rules of the protocol that tests leave out to see that the model
// notices.
type skipped struct {
	expiredStaysAlive  bool // P3: an expired lease is ignored, without a void card
	garbageUnvoided    bool // P2: what has no card is garbage, without a void card
	verdictless        bool // P2: an old tomb voids, whatever undelete said
	manifestsFirst     bool // P3 and P4 exchanged
	voidLate           bool // P2 after P3: what was just voided is garbage at once
	attemptsIgnored    bool // P5: leases protect bases alone
	basesIgnored       bool // P4: leases protect attempts alone
	onePass            bool // P5: what is unneeded is deleted at once
	recordsLiftedEarly bool // P6: a record is removed if anything needs its objects
}

// Report is what a pass found and did.
type Report struct {
	Snapshots  int           // whole ones that stay
	Unfinished int           // being written
	Forgotten  []format.ID   // with a tomb, and time left to undelete them
	Voided     []format.ID   // became void in this pass
	Kept       Count         // packs that are needed
	Garbage    Count         // packs that are not, condemned earlier or now
	Condemned  Count         // packs and pages, in this pass
	Deleted    Count         // packs and pages, in this pass
	Locked     Count         // that an object lock keeps, though they are garbage
	Missing    []Missing     // packs that snapshots need and the store does not have
	Foreign    int           // objects that are no snapshot store's
	NextPass   time.Duration // when something condemned can be deleted; 0: nothing waits
}

// Count counts objects.
type Count struct {
	Objects int
	Bytes   int64
}

func (c *Count) add(bytes int64) { c.Objects++; c.Bytes += bytes }

// Missing is a pack that a snapshot needs and that is not there.
type Missing struct {
	Snapshot format.ID
	Pack     format.Name
}

// maxMissing bounds the report.
const maxMissing = 1000

// Prune makes one pass over a store. After an error nothing is lost, and the
// report says how far it came. Errors name object and store.
func Prune(ctx context.Context, store chunkstore.Store, o Options) (*Report, error) {
	p := &pass{store: store, o: o, report: &Report{}}
	if err := p.run(ctx); err != nil {
		return p.report, fmt.Errorf("prune %v: %w", storeName(store), err)
	}
	return p.report, nil
}

// storeName says which store it is, if it can say so.
func storeName(s chunkstore.Store) string {
	if n, ok := s.(fmt.Stringer); ok {
		return n.String()
	}
	return "the store"
}

// pass is the state of one pass; doc.go has its steps.
type pass struct {
	store  chunkstore.Store
	o      Options
	report *Report
	now    time.Time // of the store

	records []record
	objects []object // ascending
	after   snapshots
	leases  []lease // of P3
	void    map[format.ID]bool
}

func (p *pass) run(ctx context.Context) error {
	if err := p.defaults(ctx); err != nil {
		return err
	}
	var err error
	if p.now, err = chunkstore.Now(ctx, p.store, format.ClockKey); err != nil {
		return err
	}
	if err := p.readRecords(ctx); err != nil { // P1
		return err
	}
	if err := p.listObjects(ctx); err != nil {
		return err
	}
	if err := p.voidDead(ctx); err != nil { // P2
		return err
	}
	if p.o.skip.manifestsFirst {
		if p.after, err = p.listSnapshots(ctx); err != nil {
			return err
		}
	}
	if err := p.readLeases(ctx); err != nil { // P3
		return err
	}
	if !p.o.skip.manifestsFirst {
		if p.after, err = p.listSnapshots(ctx); err != nil { // P4
			return err
		}
	}
	if p.o.skip.voidLate {
		if err := p.voidLate(ctx); err != nil {
			return err
		}
	}
	if err := p.mark(ctx); err != nil {
		return err
	}
	if err := p.sweep(ctx); err != nil { // P5
		return err
	}
	return p.tidy(ctx) // P6
}

// defaults fills in the options, and looks whether the store can be pruned.
func (p *pass) defaults(ctx context.Context) error {
	if p.o.Undelete == 0 {
		p.o.Undelete = DefaultUndelete
	}
	if p.o.Grace == 0 {
		p.o.Grace = DefaultGrace
	}
	if p.o.Parallel == 0 {
		p.o.Parallel = 16
	}
	if p.o.probeless {
		return nil
	}
	b, err := p.store.Get(ctx, format.StoreKey, nil, format.MaxStoreBytes)
	if err != nil {
		return err
	}
	s, err := format.DecodeStore(b)
	if err != nil {
		return fmt.Errorf("%s: %w", format.StoreKey, err)
	}
	if s.Consistency == format.Eventual {
		p.o.Grace = max(p.o.Grace, MinEventualGrace)
	}
	ok, err := chunkstore.IsConditional(ctx, p.store, format.ProbeKey)
	if err == nil && !ok {
		err = ErrUnconditional
	}
	return err
}
