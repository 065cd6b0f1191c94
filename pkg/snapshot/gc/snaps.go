package gc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// snapshot is what a listing says of one.
type snapshot struct {
	s        format.ID
	parts    []string // all but the card
	manifest bool
	card     int64 // its length; -1: none
	tombs    []tomb
	verdicts map[format.ID]bool
}

// tomb is when a snapshot was forgotten, by the store's clock.
type tomb struct {
	id format.ID
	at time.Time
}

// snapshots are the snapshots of one listing, ascending.
type snapshots []*snapshot

// listSnapshots lists all snapshots.
func (p *pass) listSnapshots(ctx context.Context) (all snapshots, err error) {
	var last *snapshot
	for info, err := range p.store.List(ctx, format.SnapPrefix, "") {
		if err != nil {
			return nil, err
		}
		s, part, err := format.ParseSnapKey(info.Key)
		if err != nil {
			p.report.Foreign++
			continue
		}
		if last == nil || last.s != s {
			last = &snapshot{s: s, card: -1}
			all = append(all, last)
		}
		last.add(part, info)
	}
	return all, nil
}

func (s *snapshot) add(part string, info chunkstore.Info) {
	if part == format.CardPart {
		s.card = info.Bytes
		return
	}
	s.parts = append(s.parts, part)
	s.manifest = s.manifest || part == format.ManifestPart
	t, verdict, ok := format.ParseTomb(part)
	switch {
	case ok && verdict:
		if s.verdicts == nil {
			s.verdicts = map[format.ID]bool{}
		}
		s.verdicts[t] = true
	case ok:
		s.tombs = append(s.tombs, tomb{t, info.Modified})
	}
}

// real reports whether the listing shows a card that is not void: by its length,
// which no other card has.
func (s *snapshot) real() bool { return s.card >= 0 && s.card != int64(len(format.VoidCard)) }

// voidDead is P2.
func (p *pass) voidDead(ctx context.Context) error {
	p.void = map[format.ID]bool{}
	before, err := p.listSnapshots(ctx) // void ones are as many as there ever were: not kept
	if err != nil {
		return err
	}
	leases, err := p.listLeases(ctx) // after the snapshots: a lease comes before all else
	if err != nil {
		return err
	}
	held := map[format.ID]bool{}
	for i := range leases {
		held[leases[i].s] = true
	}
	for _, s := range before {
		switch {
		case s.card == int64(len(format.VoidCard)):
			p.void[s.s] = true
		case s.card >= 0:
			err = p.judge(ctx, s)
		case !held[s.s] && !p.o.skip.voidLate:
			err = p.putVoid(ctx, s.s)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// voidLate is P2 in the wrong place, for the model.
func (p *pass) voidLate(ctx context.Context) error {
	held := map[format.ID]bool{}
	for i := range p.leases {
		held[p.leases[i].s] = true
	}
	for _, s := range p.after {
		var err error
		switch {
		case s.card >= 0:
			err = p.judge(ctx, s)
		case !held[s.s]:
			err = p.putVoid(ctx, s.s)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// putVoid puts a void card, if there is none, and notes whether one stands there.
func (p *pass) putVoid(ctx context.Context, s format.ID) error {
	if p.void[s] {
		return nil
	}
	if p.o.skip.garbageUnvoided {
		p.void[s] = true
		return nil
	}
	key := format.SnapKey(s, format.CardPart)
	if p.o.DryRun { // as if: nothing is deleted
		_, err := p.store.Stat(ctx, key)
		if errors.Is(err, chunkstore.ErrNotFound) {
			p.void[s] = true
			p.report.Voided = append(p.report.Voided, s)
			return nil
		}
		return err
	}
	created, err := p.store.Put(ctx, key, []byte(format.VoidCard))
	if err != nil {
		return err
	}
	if !created {
		b, err := p.store.Get(ctx, key, nil, format.MaxCardBytes)
		if err != nil && !errors.Is(err, chunkstore.ErrTooLarge) {
			return err
		}
		if !format.IsVoid(b) {
			return nil // it was committed
		}
	} else {
		p.report.Voided = append(p.report.Voided, s)
	}
	p.void[s] = true
	return nil
}

// judge decides about a whole snapshot that has tombs: whether its time to be
// undeleted is over.
func (p *pass) judge(ctx context.Context, s *snapshot) error {
	if p.o.skip.voidLate && p.void[s.s] {
		return nil
	}
	waiting := false
	for _, t := range s.tombs {
		if p.now.Sub(t.at) < p.o.Undelete && !s.verdicts[t.id] {
			waiting = true
			continue
		}
		if p.o.DryRun && !s.verdicts[t.id] { // as if
			p.void[s.s] = true
			p.report.Voided = append(p.report.Voided, s.s)
			return nil
		}
		key := format.VerdictKey(s.s, t.id)
		created := false
		var err error
		if !p.o.DryRun {
			created, err = p.store.Put(ctx, key, []byte(format.VerdictVoid))
		}
		if err != nil {
			return err
		}
		if !created && !p.o.skip.verdictless {
			b, err := p.store.Get(ctx, key, nil, 64)
			if errors.Is(err, chunkstore.ErrNotFound) { // another pruner tidied a void snapshot
				return ErrBusy
			}
			if err != nil {
				return err
			}
			void, err := format.DecodeVerdict(b)
			if err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			if !void { // whoever undeleted it died before he removed the tomb
				if p.o.DryRun {
					continue
				}
				if err := p.store.Delete(ctx, format.TombKey(s.s, t.id)); err != nil && !errors.Is(err, chunkstore.ErrLocked) {
					return err
				}
				continue
			}
		}
		// From here on nobody can undelete it: the card may be replaced. It is
		// the only object that ever is, and by these very bytes.
		if !p.o.DryRun {
			if err := p.store.Replace(ctx, format.SnapKey(s.s, format.CardPart), []byte(format.VoidCard)); err != nil {
				return err
			}
		}
		p.void[s.s] = true
		p.report.Voided = append(p.report.Voided, s.s)
		return nil
	}
	if waiting {
		p.report.Forgotten = append(p.report.Forgotten, s.s)
	}
	return nil
}

// readLeases is P3. What it voids is garbage in the next pass: it was not void
// before the leases were listed.
func (p *pass) readLeases(ctx context.Context) (err error) {
	if p.leases, err = p.listLeases(ctx); err != nil {
		return err
	}
	before := p.void
	p.void = map[format.ID]bool{}
	for i := range p.leases {
		if l := &p.leases[i]; l.expired && l.Use == format.Writing && !before[l.s] && !p.o.skip.expiredStaysAlive {
			if err := p.putVoid(ctx, l.s); err != nil {
				return err
			}
		}
	}
	p.void = before
	return nil
}
