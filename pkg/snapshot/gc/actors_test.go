package gc

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

const modelTTL = time.Hour

// newWorld has every process draw identities of its own, the same in every run.
func newWorld() *world {
	w := &world{objects: map[string]simObject{}, clock: 1e18, known: map[format.ID]*shot{}, whole: map[format.ID]bool{},
		forgets: map[format.ID]int{}, forgetting: map[format.ID]int{}, gone: map[format.ID]bool{}}
	return w
}

func (w *world) draw(b []byte) {
	p := w.current
	p.drawn++
	clear(b)
	binary.BigEndian.PutUint32(b, uint32(p.index)*0x9e3779b9)
	binary.BigEndian.PutUint32(b[8:], p.drawn)
}

// write is a writer of snapshot s, with the protocol's own code. It uses half of
// the base's packs by name and, if all of them, its pages.
func write(ctx context.Context, p *proc, s, base format.ID, predecessors []format.ID, packs int) error {
	return again(ctx, p, base, packs, writeOnce(ctx, p, s, commit.Options{Base: base, Predecessors: predecessors}, packs))
}

// goOn is a writer that goes on with snapshot s, by what leases and earlier
// attempts have left.
func goOn(ctx context.Context, p *proc, s format.ID, packs int) error {
	e, err := commit.FindEarlier(ctx, p, s)
	if err != nil {
		return err
	}
	p.attempts, p.base = e.Attempts, e.Base // if it dies at once
	return again(ctx, p, e.Base, packs, writeOnce(ctx, p, s, commit.Options{Earlier: e}, packs))
}

// again begins again as another snapshot if that is what err demands.
func again(ctx context.Context, p *proc, base format.ID, packs int, err error) error {
	for tries := 0; tries < 2 && (errors.Is(err, commit.ErrVoid) || errors.Is(err, commit.ErrTaken)); tries++ {
		err = writeOnce(ctx, p, format.NewID(), commit.Options{Base: base, Predecessors: p.attempts}, packs)
	}
	return err
}

// writeOnce makes one attempt.
func writeOnce(ctx context.Context, p *proc, s format.ID, o commit.Options, packs int) error {
	o.TTL = modelTTL
	base, predecessors := o.Base, o.Predecessors
	if o.Earlier != nil {
		base, predecessors = o.Earlier.Base, o.Earlier.Attempts
	}
	w, err := commit.Begin(ctx, p, s, o)
	if err != nil {
		return err
	}
	p.attempts = append(append([]format.ID(nil), predecessors...), w.Attempt())
	p.base = base
	next := &shot{}
	if base != (format.ID{}) {
		switch h, _, err := w.Base(ctx); {
		case err == nil:
			next.pages, next.next = h.Pages, h.Next
			next.packs = append(next.packs, p.w.known[base].packs...)
		case !errors.Is(err, commit.ErrNoBase):
			return err
		}
	}
	if o.Earlier != nil && o.Earlier.Manifest != nil { // that is how it has to end
		return commitAs(ctx, p, w, nil, o.Earlier.Manifest)
	}
	var added []format.PackEntry
	add := func(n format.Name) {
		added = append(added, format.PackEntry{Number: next.next, Name: n, Bytes: 500, Slots: 1})
		next.next++
	}
	if len(predecessors) > 0 {
		found, err := w.TakeOver(ctx)
		if err != nil {
			return err
		}
		for _, k := range p.w.keys { // in a fixed order
			if n, err := format.ParseName(k); err == nil && n.Class == format.Pack && found[n] > 0 {
				add(n)
			}
		}
	}
	for range packs {
		data := w.Attempt()
		data[15] = byte(len(added))
		n, err := w.Put(ctx, format.Pack, data[:], format.SumOf(data[:]))
		if err != nil {
			return err
		}
		add(n)
	}
	return finish(ctx, p, w, next, added)
}

func finish(ctx context.Context, p *proc, w *commit.Writer, next *shot, added []format.PackEntry) error {
	if len(added) > 0 {
		page, err := format.EncodePage(added)
		if err != nil {
			return err
		}
		ref := format.RefOf(w.Attempt(), page, added)
		if _, err := w.Put(ctx, format.Page, page, ref.Name.Sum); err != nil {
			return err
		}
		next.pages = append(next.pages[:len(next.pages):len(next.pages)], ref)
		next.packs = append(next.packs, added...)
	}
	h := &format.Head{Suite: 1, S: w.Snapshot(), Next: next.next, Pages: next.pages, Packs: uint32(len(next.packs))}
	for i := range next.pages {
		h.Bytes += next.pages[i].Bytes
	}
	manifest, err := format.EncodeManifest(h, []byte("sealed"))
	if err != nil {
		return err
	}
	return commitAs(ctx, p, w, next, manifest)
}

// commitAs commits a manifest, whose needs are in next if it is the attempt's own.
func commitAs(ctx context.Context, p *proc, w *commit.Writer, next *shot, manifest []byte) error {
	p.shot = next
	err := w.Commit(ctx, &commit.Parts{Manifest: manifest, Card: format.EncodeCard(1, make([]byte, 40))})
	if err != nil && !isRefusal(err) { // an answer was lost: once more
		err = w.Commit(ctx, &commit.Parts{Manifest: manifest, Card: format.EncodeCard(1, make([]byte, 40))})
	}
	if err == nil {
		p.w.promise(w.Snapshot())
	}
	return err
}

func forget(ctx context.Context, p *proc, s format.ID) error {
	p.w.gone[s] = true
	p.w.forgets[s]++
	p.w.forgetting[s]++
	defer func() { p.w.forgetting[s]-- }() // also when it is killed
	return commit.Forget(ctx, p, s, "model")
}

// undelete promises, unless somebody forgets it once more.
func undelete(ctx context.Context, p *proc, s format.ID) error {
	before, alone := p.w.forgets[s], p.w.forgetting[s] == 0
	err := commit.Undelete(ctx, p, s)
	if err == nil && alone && before == p.w.forgets[s] {
		p.w.gone[s] = false
	}
	return err
}

// prune makes passes; what earlier ones knew is lost.
func prune(ctx context.Context, p *proc, o Options, passes int) error {
	o.Parallel, o.probeless = 1, true
	for i := range passes {
		p.hist, p.drawn = 0, uint32(1000*(i+1)) // a new process would know as little
		p.saw("pass", i)
		if _, err := Prune(ctx, p, o); err != nil && !errors.Is(err, ErrBusy) {
			return err
		}
	}
	return nil
}
