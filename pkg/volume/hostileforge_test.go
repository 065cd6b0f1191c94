package volume

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/crypto/forgetest"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// forge changes an image under its own keys and seals everything anew up to the
// root, so that all of it verifies.
type forge struct {
	t     testing.TB
	dev   *device.Mem
	rng   *rand.Rand
	u     *layout.Unlocked
	store *txn.Store
	root  *layout.Root
	slot  int
	free  *forgetest.Forger
	next  uint64 // byte address of the next page that it makes; nothing lies there
	did   []string
}

func newForge(t testing.TB, dev *device.Mem, rng *rand.Rand) *forge {
	k, err := crypto.NewKey(testKeyBytes())
	ok(t, err)
	defer k.Erase()
	u, keys, err := header.Unlock(dev, crypto.SecretCredential(k), nil)
	ok(t, err)
	f := &forge{t: t, dev: dev, rng: rng, u: u, store: &txn.Store{Dev: dev, Keys: keys}, next: 3 << 30}
	roots, _, err := f.store.ReadRoots()
	ok(t, err)
	f.root, f.slot = roots[0].Root, roots[0].Slot
	f.free, err = forgetest.New(u.ID, u.Epochs[len(u.Epochs)-1].VMK.Bytes())
	ok(t, err)
	return f
}

func (f *forge) close() {
	crypto.EraseEpochs(f.u.Epochs)
	f.store.Keys.Erase()
}

// one tells with a chance of one in n.
func (f *forge) one(n int) bool { return f.rng.IntN(n) == 0 }

func (f *forge) note(format string, args ...any) bool {
	f.did = append(f.did, fmt.Sprintf(format, args...))
	return true
}

// mutate makes one to three changes and writes the root. It says what it did.
func (f *forge) mutate() string {
	for n := 1 + f.rng.IntN(3); n > 0; n-- {
		for !f.change() {
		}
	}
	f.writeRoot()
	if f.one(30) {
		f.header()
	}
	return strings.Join(f.did, "; ")
}

// change makes one change; false: there was nothing to change.
func (f *forge) change() bool {
	switch f.rng.IntN(24) {
	case 0:
		return f.rootField()
	case 1:
		return f.freeList()
	case 2, 3, 4:
		return f.log()
	case 5, 6:
		return f.snapshotTree()
	}
	id := layout.TreeFS
	if f.one(2) {
		id = 1 + f.rng.IntN(layout.Trees-1)
	}
	p := &f.root.Trees[id]
	return !p.IsZero() && f.tree(p, f.root.Generation)
}

// writeRoot seals the root in its slot.
func (f *forge) writeRoot() {
	slot := int(f.root.Generation % layout.RootSlots)
	f.writeRootAt(slot, f.root.Encode())
}

func (f *forge) writeRootAt(slot int, plain []byte) {
	b := device.AlignedBytes(layout.BlockBytes)
	ok(f.t, f.store.Keys.Newest().SealRoot(uint8(slot), plain, b))
	for n := range layout.RootCopies {
		ok(f.t, f.store.Write(b, uint64(layout.RootCopyOff(slot, n))))
	}
	ok(f.t, f.dev.Sync())
}

// place is where something new of n bytes goes.
func (f *forge) place(n int) uint64 {
	at := f.next
	f.next += uint64(n+layout.NodeBytes-1) / layout.NodeBytes * layout.NodeBytes
	return at
}

// seal writes a page and returns a pointer to it.
func (f *forge) seal(tree uint64, level uint8, birth uint64, page []byte) layout.Pointer {
	buf := device.AlignedBytes(layout.NodeBytes)
	rec, err := f.store.SealNode(tree, level, birth, page, buf)
	ok(f.t, err)
	rec.Addr = f.place(layout.NodeBytes)
	ok(f.t, f.store.Write(buf, rec.Addr))
	p := layout.Pointer{Record: rec}
	if f.one(4) {
		p.Addr2 = f.place(layout.NodeBytes)
		ok(f.t, f.store.Write(buf, p.Addr2))
	}
	return p
}

// read returns a page, if it is one.
func (f *forge) read(p *layout.Pointer) (layout.Node, bool) {
	b, err := f.store.ReadNode(p)
	if err != nil {
		return layout.Node{}, false
	}
	n, err := layout.DecodeNode(b, p.Object, p.Level)
	return n, err == nil
}

// extremes are what a number is set to, beside random ones.
var extremes = []uint64{0, 1, 2, 3, 255, 256, 4095, 4096, 1 << 16, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<50 - 1, 1 << 50, 1<<62 - 1, 1 << 62,
	1<<63 - 4096, 1<<63 - 1, 1 << 63, 1<<64 - 2, 1<<64 - 1}

// number is a value for a field that is v now.
func (f *forge) number(v uint64) uint64 {
	switch f.rng.IntN(6) {
	case 0:
		return v + 1
	case 1:
		return v - 1
	case 2:
		return v ^ 1<<f.rng.IntN(64)
	case 3:
		return f.rng.Uint64() >> f.rng.IntN(64)
	}
	return extremes[f.rng.IntN(len(extremes))]
}

// spoil changes bytes: numbers at multiples of four, single bits, the length.
func (f *forge) spoil(b []byte) []byte {
	b = append([]byte(nil), b...)
	for n := 1 + f.rng.IntN(2); n > 0 && len(b) > 0; n-- {
		switch i := f.rng.IntN(len(b)); f.rng.IntN(6) {
		case 0:
			b[i] ^= 1 << f.rng.IntN(8)
		case 1:
			b[i] = byte(f.rng.Uint32())
		case 2:
			b = b[:i]
		case 3:
			b = append(b, make([]byte, f.rng.IntN(40))...)
		default:
			i, x, v := i&^3, uint64(0), 4+4*f.rng.IntN(2)
			for j := range v {
				if i+j < len(b) {
					x |= uint64(b[i+j]) << (8 * j)
				}
			}
			x = f.number(x)
			for j := range v {
				if i+j < len(b) {
					b[i+j] = byte(x >> (8 * j))
				}
			}
		}
	}
	return b
}

// loopList makes a free list of n pieces of which the last leads to the first:
// their tags are chosen before, so that each can be in another.
func (f *forge) loopList(n int, runs []layout.Run) layout.Pointer2 {
	plain := len(layout.EncodeFreeList(runs, &layout.Pointer2{}))
	ring := make([]layout.Pointer2, n)
	for i := range ring {
		e := crypto.Extent{Kind: layout.KindFreeList, Birth: f.root.Generation, Epoch: f.store.Keys.Newest().Epoch(), PLen: uint32(plain), LLen: uint32(plain)}
		ring[i] = layout.Pointer2{Record: layout.Record{Extent: e, Addr: f.place(e.PaddedBytes()), Tags: make([]crypto.Tag, 1)}, Blocks: 1 << 40}
		f.random(ring[i].Tags[0][:])
	}
	for done := 0; done < n; { // the nonces are in the pieces: one that does not work changes the others
		for i := range ring {
			f.random(ring[i].Nonce[:])
		}
		done = 0
		for i := range ring {
			at := &ring[i]
			text, err := f.free.Seal(&at.Extent, layout.EncodeFreeList(runs, &ring[(i+1)%n]), at.PaddedBytes()-16, at.Tags[0])
			if errors.Is(err, forgetest.ErrNonce) {
				break
			}
			ok(f.t, err)
			ok(f.t, f.store.Write(text, at.Addr))
			done++
		}
	}
	return ring[0]
}

func (f *forge) random(b []byte) {
	for i := range b {
		b[i] = byte(f.rng.Uint32())
	}
}
