package gc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/internal/draw"
)

// A world is a store, and processes that use it: each runs as a coroutine that
// stops before every operation on the store until the scheduler lets it go on.
// So every interleaving of operations can be had, and a process can end at any.
type world struct {
	objects map[string]simObject
	keys    []string // ascending
	clock   int64    // ns of the store
	procs   []*proc
	started int // processes, also those that are gone: each draws other identities

	known map[format.ID]*shot // what manifests say, by those who wrote them
	whole map[format.ID]bool  // of which commit said so, or undelete
	gone  map[format.ID]bool  // that somebody began to forget, and nobody undeleted since

	forgets, forgetting map[format.ID]int // begun; going on
	current             *proc
	broken              broken
	fault               func(p *proc, op string) (before, after error)
	pages               int // keys that a listing returns at once; 0: all
	bad                 error
}

type simObject struct {
	data []byte
	at   int64
}

// shot is what one snapshot needs.
type shot struct {
	pages []format.PageRef
	packs []format.PackEntry
	next  uint32
}

// broken are rules that writers leave out, as the store sees it.
type broken struct {
	baseUnleased     bool // W1: the lease does not name the base
	baseUnchecked    bool // W2: the base's card is not looked at
	recordsUnread    bool // W3: packs are taken over that are condemned
	undeleteUnjudged bool // undelete removes the tomb, without a verdict
}

func withoutBases(lease []byte) []byte {
	l, err := format.DecodeLease(lease)
	if err == nil {
		l.Bases = nil
		lease, err = l.Encode()
	}
	if err != nil {
		panic(err)
	}
	return lease
}

// proc is a process.
type proc struct {
	w     *world
	name  string
	yield func(string) bool
	next  func() (string, bool)
	stop  func()
	at    string // the operation that comes next
	done  bool
	hist  uint64 // of all that it was answered
	index int
	drawn uint32
	err   error

	priority float64 // in runs that are scheduled by it: the highest goes on
	stalls   int     // after so many operations its priority falls

	attempts []format.ID // of a writer: what a successor can take over
	base     format.ID
	shot     *shot  // what its manifest says
	restart  func() // starts a successor; nil: there is none
}

type killed struct{}

// start adds a process, which runs to before its first operation.
func (w *world) start(name string, body func(ctx context.Context, p *proc) error) *proc {
	w.started++
	p := &proc{w: w, name: name, index: w.started}
	p.next, p.stop = iter.Pull(func(yield func(string) bool) {
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(killed); !ok {
					panic(r)
				}
			}
		}()
		p.yield = yield
		p.err = body(context.Background(), p)
	})
	w.procs = append(w.procs, p)
	p.step()
	return p
}

// step lets the process do its next operation.
func (p *proc) step() {
	p.w.current, draw.Bytes = p, p.w.draw
	op, ok := p.next()
	p.at, p.done = op, !ok
}

// kill ends the process before its next operation.
func (p *proc) kill() {
	p.stop()
	p.done, p.at = true, "killed"
}

func (w *world) stopAll() {
	for _, p := range w.procs {
		p.stop()
	}
}

var seed = maphash.MakeSeed()

// saw notes what an operation answered.
func (p *proc) saw(parts ...any) {
	var h maphash.Hash
	h.SetSeed(seed)
	_, _ = fmt.Fprint(&h, p.hist, parts)
	p.hist = h.Sum64()
}

// sum identifies the state of world and processes.
func (w *world) sum() uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, k := range w.keys {
		o := w.objects[k]
		h.WriteString(k)
		if !strings.Contains(k, "/"+format.TombPart) { // which says when, for people
			h.Write(o.data)
		}
		_, _ = fmt.Fprint(&h, o.at)
	}
	for _, p := range w.procs {
		_, _ = fmt.Fprint(&h, p.hist, p.done, p.at)
	}
	_, _ = fmt.Fprint(&h, w.clock)
	return h.Sum64()
}

// op is the beginning of every operation: here others run.
func (p *proc) op(name, key string) (after error, err error) {
	if !p.yield(name + " " + key) {
		panic(killed{})
	}
	if p.w.fault == nil {
		return nil, nil
	}
	before, after := p.w.fault(p, name)
	return after, before
}

// Get implements chunkstore.Store.
func (p *proc) Get(_ context.Context, key string, _ []byte, limit int) ([]byte, error) {
	after, err := p.op("get", key)
	if err = errors.Join(err, after); err != nil {
		return nil, err
	}
	o, ok := p.w.objects[key]
	if p.w.broken.baseUnchecked && strings.HasPrefix(p.name, "writer") && strings.HasSuffix(key, "/"+format.CardPart) {
		o, ok = simObject{data: format.EncodeCard(1, make([]byte, 40))}, true
	}
	p.saw("get", ok, string(o.data))
	if !ok {
		return nil, fmt.Errorf("get %s: %w", key, chunkstore.ErrNotFound)
	}
	if len(o.data) > limit {
		return nil, fmt.Errorf("get %s: %w", key, chunkstore.ErrTooLarge)
	}
	return bytes.Clone(o.data), nil
}

// GetRange implements chunkstore.Store; nobody calls it here.
func (p *proc) GetRange(context.Context, string, int64, []byte) error { return errors.ErrUnsupported }

// Put implements chunkstore.Store.
func (p *proc) Put(_ context.Context, key string, data []byte) (bool, error) {
	after, err := p.op("put", key)
	if err != nil {
		return false, err
	}
	_, ok := p.w.objects[key]
	if p.w.broken.undeleteUnjudged && strings.HasPrefix(p.name, "forget") && strings.Contains(key, "/"+format.VerdictPart) {
		return true, nil
	}
	p.saw("put", ok)
	if !ok {
		if s, part, err := format.ParseSnapKey(key); err == nil && part == format.ManifestPart && p.shot != nil {
			p.w.known[s] = p.shot
		}
		p.w.set(key, data)
	}
	return !ok, after
}

// Replace implements chunkstore.Store.
func (p *proc) Replace(_ context.Context, key string, data []byte) error {
	after, err := p.op("replace", key)
	if err != nil {
		return err
	}
	p.saw("replace")
	if p.w.broken.baseUnleased && strings.HasPrefix(key, format.LeasePrefix) {
		data = withoutBases(data)
	}
	p.w.set(key, data)
	return after
}

func (w *world) set(key string, data []byte) {
	if i, ok := slices.BinarySearch(w.keys, key); !ok {
		w.keys = slices.Insert(w.keys, i, key)
	}
	w.objects[key] = simObject{bytes.Clone(data), w.clock}
	if strings.HasSuffix(key, "/"+format.CardPart) && !format.IsVoid(data) {
		s, _, err := format.ParseSnapKey(key)
		if err != nil {
			panic(err)
		}
		w.check(s)
	}
}

// Stat implements chunkstore.Store.
func (p *proc) Stat(_ context.Context, key string) (chunkstore.Info, error) {
	after, err := p.op("stat", key)
	if err = errors.Join(err, after); err != nil {
		return chunkstore.Info{}, err
	}
	o, ok := p.w.objects[key]
	p.saw("stat", ok, o.at)
	if !ok {
		return chunkstore.Info{}, fmt.Errorf("stat %s: %w", key, chunkstore.ErrNotFound)
	}
	return chunkstore.Info{Key: key, Bytes: int64(len(o.data)), Modified: time.Unix(0, o.at)}, nil
}

// Delete implements chunkstore.Store.
func (p *proc) Delete(_ context.Context, key string) error {
	after, err := p.op("delete", key)
	if err != nil {
		return err
	}
	p.saw("delete")
	if i, ok := slices.BinarySearch(p.w.keys, key); ok {
		p.w.keys = slices.Delete(p.w.keys, i, i+1)
		delete(p.w.objects, key)
		p.w.checkAll(p, key)
	}
	return after
}

// List implements chunkstore.Store: the keys of a page at one moment, others may
// run between pages.
func (p *proc) List(_ context.Context, prefix, after string) iter.Seq2[chunkstore.Info, error] {
	return func(yield func(chunkstore.Info, error) bool) {
		for more := true; more; {
			lost, err := p.op("list", prefix)
			if err = errors.Join(err, lost); err != nil {
				yield(chunkstore.Info{}, err)
				return
			}
			i, ok := slices.BinarySearch(p.w.keys, max(prefix, after))
			if ok && p.w.keys[i] == after {
				i++
			}
			var page []chunkstore.Info
			for more = false; i < len(p.w.keys) && strings.HasPrefix(p.w.keys[i], prefix); i++ {
				if more = p.w.pages > 0 && len(page) == p.w.pages; more {
					break
				}
				o := p.w.objects[p.w.keys[i]]
				page = append(page, chunkstore.Info{Key: p.w.keys[i], Bytes: int64(len(o.data)), Modified: time.Unix(0, o.at)})
				after = p.w.keys[i]
			}
			if p.w.broken.recordsUnread && strings.HasPrefix(p.name, "writer") && prefix == format.GCPrefix {
				page, more = nil, false
			}
			for _, info := range page {
				p.saw(info.Key, info.Bytes, info.Modified.UnixNano())
				if !yield(info, nil) {
					return
				}
			}
			p.saw("page", len(page), more)
		}
	}
}

// Close implements chunkstore.Store.
func (p *proc) Close() error { return nil }

// real reports whether a snapshot's card is.
func (w *world) real(s format.ID) bool {
	card, ok := w.objects[format.SnapKey(s, format.CardPart)]
	return ok && !format.IsVoid(card.data)
}

// check finds out whether a snapshot with a real card has all that it needs.
func (w *world) check(s format.ID) {
	if w.bad != nil || !w.real(s) {
		return
	}
	missing := func(key string) bool {
		_, ok := w.objects[key]
		if !ok {
			w.bad = fmt.Errorf("snapshot %s claims to be whole without %s", s, key)
		}
		return !ok
	}
	if missing(format.SnapKey(s, format.ManifestPart)) {
		return
	}
	for _, n := range w.known[s].names() {
		if missing(n.Key()) {
			return
		}
	}
}

func (w *world) checkAll(p *proc, deleted string) {
	for s := range w.known {
		w.check(s)
	}
	if w.bad != nil && !strings.Contains(w.bad.Error(), "deleted") {
		w.bad = fmt.Errorf("%s deleted %s: %w", p.name, deleted, w.bad)
	}
}

func (s *shot) names() (all []format.Name) {
	for i := range s.pages {
		all = append(all, s.pages[i].Name)
	}
	for i := range s.packs {
		all = append(all, s.packs[i].Name)
	}
	return all
}

// promise notes that somebody was told that a snapshot is whole.
func (w *world) promise(s format.ID) { w.whole[s] = true }

// isPromise reports whether an error means that nothing was promised.
func isRefusal(err error) bool {
	return errors.Is(err, commit.ErrNoBase) || errors.Is(err, commit.ErrVoid) || errors.Is(err, commit.ErrTooLate) || errors.Is(err, commit.ErrTaken)
}
