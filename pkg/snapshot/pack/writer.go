package pack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// Sink takes packs and pages: a commit.Writer.
type Sink interface {
	// Snapshot returns which snapshot is written.
	Snapshot() format.ID
	// Attempt returns what goes into headers and names.
	Attempt() format.ID
	// Put stores an object durably. It does not keep data.
	Put(ctx context.Context, c format.Class, data []byte, sum format.Sum) (format.Name, error)
}

// Options say how packs are written.
type Options struct {
	// PackBytes is how long a pack gets at most. 0: 16 MiB.
	PackBytes int
	// InFlight is how many packs are uploaded at once. 0: 4.
	InFlight int
	// Epoch of the tenant secret.
	Epoch uint8
}

const (
	// DefaultPackBytes is the length of packs.
	DefaultPackBytes = 16 << 20
	defaultInFlight  = 4
	minPackBytes     = 1 << 16
	// metadataPart: packs of metadata are so much shorter. There are few of them, but one is open
	// all the time.
	metadataPart = 4
)

// ErrChunk is about a chunk that no pack can hold.
var ErrChunk = errors.New("chunk does not fit into a pack")

// Writer puts sealed chunks into packs. The first pack takes chunks of all
// kinds, so that a small snapshot is one; later ones hold data or metadata.
type Writer struct {
	keys    *crypto.TenantKeys
	sink    Sink
	list    *Builder
	opts    Options
	ctx     context.Context // of uploads
	cancel  context.CancelFunc
	uploads chan struct{} // one for each upload in progress

	mu      sync.Mutex
	open    map[format.PackKind]*openPack // guarded by mu
	first   bool                          // guarded by mu: the mixed pack is not full yet
	err     error                         // guarded by mu: the first of an upload
	free    [][]byte                      // guarded by mu: buffers
	report  Stored                        // guarded by mu
	running int                           // guarded by mu: uploads
	idle    chan struct{}                 // guarded by mu: closed when running is 0 again
}

// Stored counts what was uploaded.
type Stored struct {
	Packs, Chunks int
	Bytes         int64
}

// openPack is a pack that is being filled.
type openPack struct {
	number uint32
	most   int // bytes, unless one object alone needs more
	header []byte
	b      []byte
	slots  []format.PackSlot
	ids    []ids
}

// ids are what the slot of a chunk hides.
type ids struct{ d, p [32]byte }

// NewWriter returns a writer whose packs get the numbers of list, which is of this
// attempt alone: two packs of one attempt and number would share masks. Uploads
// last as long as ctx; the ctx of a call bounds that call's waiting. The caller
// calls Close.
func NewWriter(ctx context.Context, keys *crypto.TenantKeys, sink Sink, list *Builder, o Options) (*Writer, error) {
	if o.PackBytes == 0 {
		o.PackBytes = DefaultPackBytes
	}
	if o.InFlight == 0 {
		o.InFlight = defaultInFlight
	}
	if o.PackBytes < minPackBytes || o.PackBytes > format.MaxPackBytes {
		return nil, fmt.Errorf("packs of %d bytes: they have from %d to %d", o.PackBytes, minPackBytes, format.MaxPackBytes)
	}
	w := &Writer{keys: keys, sink: sink, list: list, opts: o, uploads: make(chan struct{}, o.InFlight),
		open: map[format.PackKind]*openPack{}, first: true}
	w.ctx, w.cancel = context.WithCancel(ctx)
	return w, nil
}

// endBytes is how long the end of a pack of n objects is.
func endBytes(n int) int { return n*format.PackSlotBytes + format.PackTrailerBytes }

// Add puts an object that SealPacked made, with reference r, into a pack, and
// returns where it is. The object is stored when Flush has returned. If ctx ends
// while Add waits for an upload, the object is in no pack and nothing is lost.
func (w *Writer) Add(ctx context.Context, r *crypto.ChunkRef, object []byte) (selfenc.PackedRef, error) {
	if len(object) < format.MinObjectBytes || format.PackHeaderBytes+len(object)+endBytes(1) > w.opts.PackBytes {
		return selfenc.PackedRef{}, fmt.Errorf("%w of %d bytes: %d", ErrChunk, w.opts.PackBytes, len(object))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		if w.err != nil {
			return selfenc.PackedRef{}, w.err
		}
		kind := w.kind(r)
		p := w.open[kind]
		if p == nil {
			return w.begin(kind).add(r, object), nil
		}
		if !p.full(object) {
			return p.add(r, object), nil
		}
		// Meanwhile another caller may have closed it, and filled the next one.
		if err := w.close(ctx, kind, p); err != nil {
			return selfenc.PackedRef{}, err
		}
	}
}

// kind returns the kind of pack that a chunk goes into. The caller holds mu.
func (w *Writer) kind(r *crypto.ChunkRef) format.PackKind {
	switch {
	case w.first:
		return format.MixedPack
	case r.Kind == crypto.ChunkData:
		return format.DataPack
	}
	return format.MetadataPack
}

// full reports whether an object does not fit into a pack any more. The caller
// holds mu.
func (p *openPack) full(object []byte) bool {
	return len(p.slots) == format.MaxPackSlots || len(p.slots) > 0 && len(p.b)+len(object)+endBytes(len(p.slots)+1) > p.most
}

// begin opens a pack. The caller holds mu.
func (w *Writer) begin(kind format.PackKind) *openPack {
	h := format.PackHeader{Kind: kind, Epoch: w.opts.Epoch, Number: w.list.Reserve(), Attempt: w.sink.Attempt()}
	p := &openPack{number: h.Number, most: w.opts.PackBytes}
	if kind == format.MetadataPack {
		p.most /= metadataPart
	} else if n := len(w.free); n > 0 {
		p.b, w.free = w.free[n-1][:0], w.free[:n-1]
	} else {
		p.b = make([]byte, 0, w.opts.PackBytes) // the kernel provides what is used of it
	}
	p.b = h.Append(p.b)
	p.header = append([]byte(nil), p.b...)
	w.open[kind] = p
	return p
}

// smallPack is how long a pack is until it gets all the memory that it may need. Else it would be
// copied again and again, with its copies as garbage.
const smallPack = 1 << 20

// add puts an object into a pack in which it fits.
func (p *openPack) add(r *crypto.ChunkRef, object []byte) selfenc.PackedRef {
	if n := len(p.b) + len(object); n > cap(p.b) && n > smallPack {
		p.b = append(make([]byte, 0, max(p.most, n+endBytes(len(p.slots)+1))), p.b...)
	}
	ref := selfenc.PackedRef{Ref: *r, Stored: uint32(len(object)), Pack: p.number, Offset: uint32(len(p.b)), Slot: uint16(len(p.slots))}
	ref.Name = [32]byte{}
	p.slots = append(p.slots, format.PackSlot{Offset: ref.Offset, Length: ref.Stored, Kind: uint8(r.Kind), Comp: r.Comp, Suite: uint8(r.Suite)})
	p.ids = append(p.ids, ids{r.D, r.P})
	p.b = append(p.b, object...)
	return ref
}

// close waits until another upload may begin, and then has p uploaded, unless
// another caller had that done. So no more than Options.InFlight packs wait to be
// stored beside the open ones. The caller holds mu, which it gives back meanwhile.
func (w *Writer) close(ctx context.Context, kind format.PackKind, p *openPack) error {
	w.mu.Unlock()
	var err error
	select {
	case w.uploads <- struct{}{}:
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-w.ctx.Done(): // an upload failed, or the writer was closed
		err = w.fail(context.Cause(w.ctx))
	}
	w.mu.Lock()
	if err != nil {
		return err
	}
	if w.open[kind] != p || w.err != nil {
		<-w.uploads
		return w.err
	}
	delete(w.open, kind)
	w.first = false
	if w.running++; w.running == 1 {
		w.idle = make(chan struct{})
	}
	go w.run(p)
	return nil
}

// run uploads a pack in a goroutine of its own, which idle tells the end of.
func (w *Writer) run(p *openPack) {
	if err := w.upload(p); err != nil {
		_ = w.fail(fmt.Errorf("store pack %d: %w", p.number, err))
	}
	<-w.uploads
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running--; w.running == 0 {
		close(w.idle)
	}
}

// fail notes the first error, after which other uploads are of no use, and
// returns it.
func (w *Writer) fail(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.cancel()
	return w.err
}

// upload ends a pack, stores it and enters it into the list.
func (w *Writer) upload(p *openPack) (err error) {
	at := crypto.PackSlot{Snapshot: crypto.UUID(w.sink.Snapshot()), Header: p.header}
	for i := range p.slots {
		// The masks repeat for no other slot: an attempt uses a number once.
		at.Index, at.Clear = uint16(i), p.slots[i].Clear()
		if p.slots[i].Hidden, err = w.keys.HideRef(&at, &p.ids[i].d, &p.ids[i].p); err != nil {
			return err
		}
	}
	p.b = format.AppendPackTable(p.b, p.slots, uint32(len(p.b)))
	name, err := w.sink.Put(w.ctx, format.Pack, p.b, p.end())
	if err != nil {
		return err
	}
	w.list.Add(format.PackEntry{Number: p.number, Name: name, Bytes: uint32(len(p.b)), Slots: uint16(len(p.slots))})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.report.Packs++
	w.report.Chunks += len(p.slots)
	w.report.Bytes += int64(len(p.b))
	if len(w.free) <= w.opts.InFlight && p.most == w.opts.PackBytes {
		w.free = append(w.free, p.b)
	}
	return nil
}

// end appends the end of a pack, and returns the hash of all. The bulk is hashed once.
func (p *openPack) end() (sum format.Sum) {
	h := sha256.New()
	h.Write(p.b)
	n := len(p.b)
	p.b = append(h.Sum(p.b), format.PackEnd...)
	h.Write(p.b[n:])
	h.Sum(sum[:0])
	return sum
}

// Flush uploads what is open and waits for all uploads. If ctx ends meanwhile, it
// can be called again.
func (w *Writer) Flush(ctx context.Context) (Stored, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, kind := range []format.PackKind{format.MixedPack, format.DataPack, format.MetadataPack} {
		p := w.open[kind]
		if p == nil || w.err != nil {
			continue
		}
		if err := w.close(ctx, kind, p); err != nil {
			break
		}
	}
	if err := w.wait(ctx); err != nil && w.err == nil {
		return w.report, err
	}
	w.free = nil                         // most often nothing follows
	if w.err == nil && len(w.open) > 0 { // ctx ended while a pack waited to be uploaded
		return w.report, context.Cause(ctx)
	}
	return w.report, w.err
}

// wait waits until no upload is in progress. The caller holds mu, which it gives
// back meanwhile.
func (w *Writer) wait(ctx context.Context) error {
	for w.running > 0 {
		idle := w.idle
		w.mu.Unlock()
		var err error
		select {
		case <-idle:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		w.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

// Close ends all uploads that are in progress and waits for them. What Flush has
// stored stays.
func (w *Writer) Close() {
	w.cancel()
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.wait(context.Background()) // the store returns early when its context ends
}

// Stored returns what was uploaded so far.
func (w *Writer) Stored() Stored {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.report
}
