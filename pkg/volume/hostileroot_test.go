package volume

import (
	"crypto/sha256"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// rootField changes a field of the root.
func (f *forge) rootField() bool {
	r := f.root
	f.note("root")
	numbers := []*uint64{&r.MountEpoch, &r.LogSeq, &r.OpSeq, &r.HeaderSeq, &r.DeviceBlocks, &r.NextIno, &r.FreeBlocks, &r.Inodes,
		&r.AllocHint, &r.NewestSnapshot, &r.Reserved.Promised, &r.Reserved.Owed, &r.Reserved.Ranges, &r.Reserved.Mark, &r.Rotation.Done, &r.Rotation.Next.Obj, &r.Rotation.Next.Sub}
	switch f.rng.IntN(9) {
	case 0:
		r.Clean = !r.Clean
	case 1:
		i, j := f.rng.IntN(layout.Trees), f.rng.IntN(layout.Trees)
		r.Trees[i] = r.Trees[j]
		if !r.Trees[i].IsZero() {
			r.Trees[i].Object = uint64(i)
		}
	case 2:
		r.Trees[f.rng.IntN(layout.Trees)] = layout.Pointer{}
	case 3:
		if p := &r.Trees[1+f.rng.IntN(5)]; !p.IsZero() {
			f.pointer(p)
		}
	case 4:
		r.Rotation = layout.Rotation{Target: uint32(1 + f.rng.IntN(4)), Tree: uint8(f.rng.IntN(layout.Trees)), Again: f.one(2), Done: f.number(5)}
	case 5:
		r.Offered = nil
		for range f.rng.IntN(layout.MaxAnchorsOffered + 1) {
			r.Offered = append(r.Offered, layout.OfferedAnchor{Generation: f.number(r.Generation)})
		}
	case 6:
		r.LogBlocks = 256 + f.rng.Uint64N(1<<16-255)
	default:
		n := numbers[f.rng.IntN(len(numbers))]
		*n = f.number(*n)
	}
	return true
}

// freeList gives the root another free list.
func (f *forge) freeList() bool {
	r := f.root
	var runs []layout.Run
	for range f.rng.IntN(layout.FreeListPieceMax) {
		runs = append(runs, f.run())
	}
	var p layout.Pointer2
	which := f.rng.IntN(2)
	if f.one(3) {
		n := 1 + f.rng.IntN(3)
		f.note("free list %d: %d pieces in a circle", which, n)
		p = f.loopList(n, runs[:min(len(runs), 5400)])
	} else {
		n := 1 + f.rng.IntN(20)
		f.note("free list %d: %d pieces", which, n)
		for range n {
			plain := layout.EncodeFreeList(runs, &p)
			rec, text, err := f.store.SealFreeList(r.Generation, plain)
			ok(f.t, err)
			if rec.Addr = f.place(len(text)); f.one(8) && !p.IsZero() {
				rec.Addr = p.Addr
			}
			ok(f.t, f.store.Write(text, rec.Addr))
			p = layout.Pointer2{Record: rec, Blocks: f.number(1 << 40)}
			if f.one(3) {
				runs = append(runs[:0:0], f.run())
			}
		}
	}
	r.FreeLists[which] = p
	return true
}

// run is a run of blocks, of anything.
func (f *forge) run() layout.Run {
	r := layout.Run{Start: f.rng.Uint64N(max(1, f.root.DeviceBlocks)), Count: 1 + uint32(f.rng.IntN(8))}
	switch f.rng.IntN(400) {
	case 0:
		r.Start = f.number(r.Start) % (1 << 50)
	case 1:
		r.Count = max(1, uint32(f.number(1)))
	}
	return r
}

// header writes another header, under a MAC and a checksum that fit.
func (f *forge) header() {
	h := *f.u.Header
	switch f.rng.IntN(5) {
	case 0:
		h.Compat = f.number(h.Compat)
	case 1:
		h.ROCompat = f.number(h.ROCompat)
	case 2:
		h.Incompat = f.number(h.Incompat)
	case 3:
		h.Sequence = f.number(h.Sequence)
	}
	keys := f.store.Keys.Newest()
	b, err := layout.EncodeHeader(&h, keys)
	if err != nil {
		return
	}
	if f.one(2) {
		b[f.rng.IntN(200)] = byte(f.rng.Uint32())
		b[4096+f.rng.IntN(3072)] ^= byte(f.rng.Uint32())
		mac := keys.HeaderMAC(b[:layout.HeaderBytes-64])
		copy(b[layout.HeaderBytes-64:], mac[:])
		sum := sha256.Sum256(b[:layout.HeaderBytes-32])
		copy(b[layout.HeaderBytes-32:], sum[:])
	}
	at := []int64{layout.HeaderOffsetA, layout.HeaderOffsetB}
	for i := range at {
		if f.one(3) {
			continue
		}
		_, err := f.dev.WriteAt(append(device.AlignedBytes(0), b...), at[i])
		ok(f.t, err)
	}
	ok(f.t, f.dev.Sync())
	f.note("header")
}
