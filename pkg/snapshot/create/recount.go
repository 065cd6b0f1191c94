package create

import (
	"cmp"
	"context"
	"fmt"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/merkle"
	"github.com/sealvol/sealvol/pkg/snapshot/pack"
	"github.com/sealvol/sealvol/pkg/snapshot/stored"
	"github.com/sealvol/sealvol/pkg/volume/logical"
)

const (
	// recountEvery is the default of Options.RecountEvery.
	recountEvery = 64
	// recountPart: a recount is due when dropped bytes exceed 1/recountPart of what the list names.
	recountPart = 5
)

// used counts which slots of which packs a snapshot needs.
type used map[uint32]*slots

type slots struct {
	n    int
	bits []byte
}

func (u used) add(r *selfenc.PackedRef) {
	if *r == (selfenc.PackedRef{}) {
		return
	}
	s := u[r.Pack]
	if s == nil {
		s = &slots{}
		u[r.Pack] = s
	}
	i := int(r.Slot / 8)
	for len(s.bits) <= i {
		s.bits = append(s.bits, 0)
	}
	if bit := byte(1) << (r.Slot % 8); s.bits[i]&bit == 0 {
		s.bits[i] |= bit
		s.n++
	}
}

// check compares what is used with the list. They differ if whoever made the base wrote references
// that its list does not cover: such a snapshot must not become whole.
func (u used) check(ctx context.Context, list *pack.List, pages int) error {
	found := 0
	for i := range pages {
		packs, err := list.Page(ctx, i)
		if err != nil {
			return err
		}
		for _, e := range packs {
			s := u[e.Number]
			if s == nil {
				continue
			}
			found++
			if n := (int(e.Slots) + 7) / 8; len(s.bits) > n || len(s.bits) == n && e.Slots%8 != 0 && s.bits[n-1]>>(e.Slots%8) != 0 {
				return fmt.Errorf("pack %d (%s): %w: the snapshot refers to a slot beyond its %d", e.Number, e.Name, pack.ErrDamaged, e.Slots)
			}
		}
	}
	if found != len(u) {
		return fmt.Errorf("%w: %d packs that the snapshot refers to are not in its list", pack.ErrNoPack, len(u)-found)
	}
	return nil
}

// live is what pack.Recount asks for.
func (u used) live(e *format.PackEntry) (bitmap []byte, needed bool) {
	s := u[e.Number]
	if s == nil {
		return nil, false
	}
	if s.n == int(e.Slots) {
		return nil, true
	}
	return append(s.bits, make([]byte, (int(e.Slots)+7)/8-len(s.bits))...), true
}

// recount drops from the list what the snapshot does not need, if it is time for that. It walks all
// metadata of the snapshot.
func (j *job) recount(ctx context.Context, root merkle.Root, h *format.Head, b *manifest.Body) (bool, error) {
	if j.base == nil || int64(b.Since) < int64(cmp.Or(j.o.RecountEvery, recountEvery)) && b.Dropped < h.Bytes/recountPart {
		return false, nil
	}
	list := pack.NewList(j.o.Store, h)
	u, err := j.walk(ctx, list, h, root)
	if err != nil {
		return false, fmt.Errorf("recount: %w", err)
	}
	if err := pack.Recount(ctx, j.w, list, h.Next, h, u.live); err != nil {
		return false, fmt.Errorf("recount: %w", err)
	}
	b.Since, b.Dropped = 0, 0
	return true, nil
}

// walk visits every reference of the new snapshot.
func (j *job) walk(ctx context.Context, list *pack.List, h *format.Head, root merkle.Root) (used, error) {
	in := pack.NewReader(j.o.Store, j.o.Tenant, list)
	o := j.o.sealing()
	o.DedupChunks = -1
	sealer, err := selfenc.NewPackedSealer(j.o.Tenant, j.o.Suite, nil, in, o)
	if err != nil {
		return nil, err
	}
	defer sealer.Close()
	config, err := stored.MapConfig(sealer, j.o.Tenant)
	if err != nil {
		return nil, err
	}
	config.CacheBytes = mapCacheBytes
	u := used{}
	err = merkle.Open(config, root).Walk(ctx, nil, func(n *merkle.Node) error {
		u.add(&n.Ref)
		for x := range n.Items() {
			if x.Key.Type != logical.DataType {
				continue
			}
			o, err := fact.DecodeData(x.Value)
			if err == nil {
				err = sealer.Walk(ctx, &o, func(_ int, _ int64, r *selfenc.PackedRef) error { u.add(r); return nil })
			}
			if err != nil {
				return fmt.Errorf("inode %d: %w", x.Key.Ino, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := u.check(ctx, list, len(h.Pages)); err != nil {
		return nil, err
	}
	return u, nil
}
