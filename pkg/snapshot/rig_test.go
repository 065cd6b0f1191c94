package snapshot_test

import (
	"errors"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/snapshot/merkle"
	"github.com/sealvol/sealvol/pkg/snapshot/restore"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/snapshot/stored"
	"github.com/sealvol/sealvol/pkg/snapshot/verify"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
	"github.com/sealvol/sealvol/pkg/volume/volumetest"
)

// historyRig stores states of a random history.
type historyRig struct {
	rig
	h      *volumetest.History
	stored []storedState
}

// storedState is a stored snapshot, and the local one that it was made of.
type storedState struct {
	name string
	rep  *create.Report
}

func newHistoryRig(t *testing.T, h *volumetest.History, o snapstore.Options) *historyRig {
	t.Helper()
	r := &historyRig{h: h, rig: rig{t: t}}
	secret, err := crypto.GenerateKey()
	r.ok(err)
	defer secret.Erase()
	r.tenant, err = snapstore.NewTenant(secret)
	r.ok(err)
	t.Cleanup(r.tenant.Erase)
	r.store, _, err = snapstore.Create(t.Context(), chunkstore.NewMemory(), o)
	r.ok(err)
	k := volumetest.NewKey(t)
	r.cred, r.kek = k, k
	return r
}

// options are those of a snapshot on a base, nil: none.
func (r *historyRig) options(base *create.Report) create.Options {
	o := create.Options{Store: r.store.Objects(), StoreID: r.store.ID(), Format: r.store.Description(), Tenant: r.tenant.Keys,
		Suite: crypto.Suite(1 + r.h.Rng.IntN(2)), Recipients: []crypto.Recipient{r.kek}, Writer: "test", Who: "test"}
	if base != nil {
		o.Base = &create.Base{S: base.S, Open: r.open(base.S)}
	}
	return o
}

// put stores a state. from may be "".
func (r *historyRig) put(from, to string, o create.Options) *create.Report {
	r.t.Helper()
	rep, err := r.tryPut(from, to, o)
	r.ok(err)
	return rep
}

func (r *historyRig) tryPut(from, to string, o create.Options) (*create.Report, error) {
	r.t.Helper()
	src, err := pinned.Open(r.h.Dev, pinned.Options{Credential: r.h.Key, Memory: 1 << 20})
	r.ok(err)
	defer src.Close()
	b, err := src.Snapshot(to)
	r.ok(err)
	var a *pinned.State
	if from != "" {
		if a, err = src.Snapshot(from); errors.Is(err, pinned.ErrNoSnapshot) {
			a, err = nil, nil // after a rollback
		}
		r.ok(err)
	}
	return create.Run(r.t.Context(), src.Identity(), a, b, o)
}

// same compares what two reports say of the same state.
func (r *historyRig) same(what string, a, b *create.Report) {
	r.t.Helper()
	if a.Content != b.Content || a.Files != b.Files || a.Dirs != b.Dirs || a.Logical != b.Logical {
		r.t.Fatalf("%s: %+v, %+v", what, a, b)
	}
}

// verify reads all of a snapshot, and compares its list with what it refers to. With exact, the list
// has nothing else.
func (r *historyRig) verify(rep *create.Report, exact bool) {
	r.t.Helper()
	sn := r.read(rep.S)
	defer sn.Close()
	got, err := verify.Run(r.t.Context(), sn.VerifySource(), verify.Options{Level: verify.Data, Problem: func(p verify.Problem) { r.t.Error(p) }})
	r.ok(err)
	if got.Inodes != rep.Files+rep.Dirs || got.Packs != uint64(rep.Packs) {
		r.t.Fatalf("verified %+v of %+v", got, rep)
	}
	used := r.used(sn)
	list := sn.VerifySource().List
	named := 0
	for i := range sn.Head.Pages {
		packs, err := list.Page(r.t.Context(), i)
		r.ok(err)
		for _, e := range packs {
			slots := used[e.Number]
			if slots == nil && exact {
				r.t.Fatalf("after a recount the list names pack %d, which is not used", e.Number)
			}
			live := 0
			for slot := range e.Slots {
				is := e.Live == nil || e.Live[slot/8]&(1<<(slot%8)) != 0
				if slots[slot] && !is || exact && is && !slots[slot] {
					r.t.Fatalf("pack %d, slot %d is used: %t, live: %t", e.Number, slot, slots[slot], is)
				}
				if is {
					live++
				}
			}
			if exact && (live != len(slots)) {
				r.t.Fatalf("pack %d has %d live slots, %d are used", e.Number, live, len(slots))
			}
			if slots != nil {
				named++
			}
		}
	}
	if named != len(used) {
		r.t.Fatalf("the list names %d of %d packs", named, len(used))
	}
}

// used is which slots of which packs a snapshot refers to.
func (r *historyRig) used(sn *stored.Snapshot) map[uint32]map[uint16]bool {
	r.t.Helper()
	src, all := sn.RestoreSource(), map[uint32]map[uint16]bool{}
	add := func(ref *selfenc.PackedRef) {
		if *ref == (selfenc.PackedRef{}) {
			return
		}
		if all[ref.Pack] == nil {
			all[ref.Pack] = map[uint16]bool{}
		}
		all[ref.Pack][ref.Slot] = true
	}
	r.ok(src.Map.Walk(r.t.Context(), nil, func(n *merkle.Node) error { add(&n.Ref); return nil }))
	for x, err := range src.Map.Scan(r.t.Context(), logical.Key{}, merkle.LastKey) {
		r.ok(err)
		if x.Key.Type == logical.DataType {
			o, err := fact.DecodeData(x.Value)
			r.ok(err)
			r.ok(src.Sealer.Walk(r.t.Context(), &o, func(_ int, _ int64, ref *selfenc.PackedRef) error { add(ref); return nil }))
		}
	}
	return all
}

// restored restores a snapshot into a volume of another size and suite, checks it, and stores it
// again: the content is the same.
func (r *historyRig) restored(rep *create.Report) {
	r.t.Helper()
	sn := r.read(rep.S)
	defer sn.Close()
	next, err := sn.NextIno(r.t.Context())
	r.ok(err)
	dev := device.NewMem(160<<20 + int64(r.h.Rng.IntN(64))<<20)
	l, err := volume.NewLoader(dev, volume.FormatOptions{Recipient: r.kek, Suite: crypto.Suite(1 + r.h.Rng.IntN(2))},
		volume.LoadOptions{Credential: r.cred, HashSeed: sn.Body.Seed, NextIno: next})
	r.ok(err)
	r.ok(restore.Run(r.t.Context(), sn.RestoreSource(), l, restore.Options{}))
	r.restoredSame("restored", dev, rep)
}
