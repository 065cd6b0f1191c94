package pack

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// Sink takes packs and pages: a commit.Writer.
type Sink interface {
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
)

// ErrChunk is about a chunk that no pack can hold.
var ErrChunk = errors.New("chunk does not fit into a pack")

// Writer puts sealed chunks into packs. The first pack takes chunks of all
// kinds, so that a small snapshot is one; later ones hold data or metadata.
type Writer struct {
	keys  *crypto.TenantKeys
	sink  Sink
	list  *Builder
	opts  Options
	slots chan struct{} // one for each upload in progress

	mu     sync.Mutex
	open   map[format.PackKind]*openPack // guarded by mu
	first  bool                          // guarded by mu: the mixed pack is not full yet
	err    error                         // guarded by mu: the first of an upload
	free   [][]byte                      // guarded by mu: buffers
	group  sync.WaitGroup
	report Stored // guarded by mu
}

// Stored counts what was uploaded.
type Stored struct {
	Packs, Chunks int
	Bytes         int64
}

// openPack is a pack that is being filled.
type openPack struct {
	number uint32
	header []byte
	b      []byte
	slots  []format.PackSlot
	d      [][16]byte
}

// NewWriter returns a writer whose packs get the numbers of list.
func NewWriter(keys *crypto.TenantKeys, sink Sink, list *Builder, o Options) (*Writer, error) {
	if o.PackBytes == 0 {
		o.PackBytes = DefaultPackBytes
	}
	if o.InFlight == 0 {
		o.InFlight = defaultInFlight
	}
	if o.PackBytes < minPackBytes || o.PackBytes > format.MaxPackBytes {
		return nil, fmt.Errorf("packs of %d bytes: they have from %d to %d", o.PackBytes, minPackBytes, format.MaxPackBytes)
	}
	return &Writer{keys: keys, sink: sink, list: list, opts: o, slots: make(chan struct{}, o.InFlight),
		open: map[format.PackKind]*openPack{}, first: true}, nil
}

// endBytes is how long the end of a pack of n objects is.
func endBytes(n int) int { return n*format.PackSlotBytes + format.PackTrailerBytes }

// Add puts an object that SealPacked made, with reference r, into a pack, and
// returns where it is. The object is stored when Flush has returned.
func (w *Writer) Add(ctx context.Context, r *crypto.ChunkRef, object []byte) (selfenc.PackedRef, error) {
	if len(object) < format.MinObjectBytes || format.PackHeaderBytes+len(object)+endBytes(1) > w.opts.PackBytes {
		return selfenc.PackedRef{}, fmt.Errorf("%w of %d bytes: %d", ErrChunk, w.opts.PackBytes, len(object))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return selfenc.PackedRef{}, w.err
	}
	// While a full pack waits for its upload, other callers may fill the next one.
	p := w.open[w.kind(r)]
	for p != nil && w.full(p, object) {
		kind := w.kind(r)
		w.first = false
		if err := w.close(ctx, kind); err != nil {
			return selfenc.PackedRef{}, err
		}
		p = w.open[w.kind(r)]
	}
	if p == nil {
		p = w.begin(w.kind(r))
	}
	ref := selfenc.PackedRef{Ref: *r, Stored: uint32(len(object)), Pack: p.number, Offset: uint32(len(p.b)), Slot: uint16(len(p.slots))}
	ref.Name = [32]byte{}
	p.slots = append(p.slots, format.PackSlot{Offset: ref.Offset, Length: ref.Stored, Kind: uint8(r.Kind), Comp: r.Comp})
	p.d = append(p.d, [16]byte(r.D[:16]))
	p.b = append(p.b, object...)
	return ref, nil
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
func (w *Writer) full(p *openPack, object []byte) bool {
	return len(p.slots) == format.MaxPackSlots || len(p.b)+len(object)+endBytes(len(p.slots)+1) > w.opts.PackBytes
}

// begin opens a pack. The caller holds mu.
func (w *Writer) begin(kind format.PackKind) *openPack {
	h := format.PackHeader{Kind: kind, Epoch: w.opts.Epoch, Number: w.list.Reserve(), Attempt: w.sink.Attempt()}
	p := &openPack{number: h.Number}
	if n := len(w.free); n > 0 {
		p.b, w.free = w.free[n-1][:0], w.free[:n-1]
	}
	p.b = h.Append(p.b)
	p.header = append([]byte(nil), p.b...)
	w.open[kind] = p
	return p
}

// close has a pack uploaded, and waits for a place for that. The caller holds
// mu, which it gives back meanwhile.
func (w *Writer) close(ctx context.Context, kind format.PackKind) error {
	p := w.open[kind]
	delete(w.open, kind)
	w.group.Add(1)
	w.mu.Unlock()
	defer w.mu.Lock()
	select {
	case w.slots <- struct{}{}:
	case <-ctx.Done():
		w.group.Done()
		w.fail(context.Cause(ctx))
		return context.Cause(ctx)
	}
	go func() {
		defer w.group.Done()
		defer func() { <-w.slots }()
		if err := w.upload(ctx, p); err != nil {
			w.fail(fmt.Errorf("store pack %d: %w", p.number, err))
		}
	}()
	return nil
}

func (w *Writer) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

// upload ends a pack, stores it and enters it into the list.
func (w *Writer) upload(ctx context.Context, p *openPack) error {
	for i := range p.slots {
		// The mask repeats for no other slot: an attempt uses a number once.
		mask, err := w.keys.SlotMask(p.header, uint16(i))
		if err != nil {
			return err
		}
		for j := range mask {
			p.slots[i].Mark[j] = p.d[i][j] ^ mask[j]
		}
	}
	p.b = format.AppendPackTable(p.b, p.slots, uint32(len(p.b)))
	sum := format.SumOf(p.b)
	p.b = append(append(p.b, sum[:]...), format.PackEnd...)
	name, err := w.sink.Put(ctx, format.Pack, p.b, format.SumOf(p.b))
	if err != nil {
		return err
	}
	w.list.Add(format.PackEntry{Number: p.number, Name: name, Bytes: uint32(len(p.b)), Slots: uint16(len(p.slots))})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.report.Packs++
	w.report.Chunks += len(p.slots)
	w.report.Bytes += int64(len(p.b))
	if len(w.free) <= w.opts.InFlight {
		w.free = append(w.free, p.b)
	}
	return nil
}

// Flush uploads what is open and waits for all uploads.
func (w *Writer) Flush(ctx context.Context) (Stored, error) {
	w.mu.Lock()
	for kind := range w.open {
		if w.err != nil {
			break
		}
		if err := w.close(ctx, kind); err != nil {
			break
		}
	}
	w.mu.Unlock()
	w.group.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.report, w.err
}
