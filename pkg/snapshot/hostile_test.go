package snapshot_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/manifest"
	"github.com/sealvol/sealvol/pkg/snapshot/merkle"
	"github.com/sealvol/sealvol/pkg/snapshot/pack"
	"github.com/sealvol/sealvol/pkg/snapshot/restore"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/snapshot/stored"
	"github.com/sealvol/sealvol/pkg/snapshot/verify"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/volumetest"
)

// items are the facts of a map.
type items map[logical.Key][]byte

func (r *historyRig) items(sn *stored.Snapshot) items {
	r.t.Helper()
	all := items{}
	for x, err := range sn.RestoreSource().Map.Scan(r.t.Context(), logical.Key{}, merkle.LastKey) {
		r.ok(err)
		all[x.Key] = x.Value
	}
	return all
}

// forge stores facts as a snapshot, as whoever holds the keys can: whole, and sealed as it should
// be. Content is what sn has.
func (r *historyRig) forge(sn *stored.Snapshot, facts items) (s format.ID, err error) {
	r.t.Helper()
	ctx := r.t.Context()
	s = format.NewID()
	w, err := commit.Begin(ctx, r.store.Objects(), s, commit.Options{Base: sn.Head.S})
	r.ok(err)
	list := pack.NewBuilder(sn.Head)
	out, err := pack.NewWriter(ctx, r.tenant.Keys, w, list, pack.Options{PackBytes: 1 << 20})
	r.ok(err)
	defer out.Close()
	sealer, err := selfenc.NewPackedSealer(r.tenant.Keys, 1, out, nil, selfenc.PackedOptions{ChunkBytes: int(sn.Body.ChunkBytes)})
	r.ok(err)
	defer sealer.Close()
	config, err := stored.MapConfig(sealer, r.tenant.Keys)
	r.ok(err)
	keys := slices.SortedFunc(maps.Keys(facts), logical.Key.Compare)
	root, _, err := merkle.Update(ctx, config, merkle.Root{}, func(yield func(merkle.Change, error) bool) {
		for _, k := range keys {
			if !yield(merkle.Change{Key: k, Value: facts[k]}, nil) {
				return
			}
		}
	})
	if err != nil {
		return s, err // no map can have these facts
	}
	_, err = out.Flush(ctx)
	r.ok(err)
	h := &format.Head{Suite: 1, S: s, Lineage: sn.Head.Lineage, Created: 5}
	parent := pack.NewList(r.store.Objects(), sn.Head)
	r.ok(list.Finish(ctx, w, parent, h))
	b := *sn.Body
	b.Root, b.Height, b.Content, b.Parent, b.ParentSealed = root.Ref, root.Height, root.Content, crypto.UUID{}, format.Sum{}
	sk, err := crypto.GenerateKey()
	r.ok(err)
	defer sk.Erase()
	p := &commit.Parts{}
	p.Keys, err = snapstore.SealKey(1, s, sk, r.kek)
	r.ok(err)
	snapKeys, err := crypto.DeriveSnapshotKeys(1, crypto.UUID(s), sk)
	r.ok(err)
	defer snapKeys.Erase()
	p.Manifest, err = manifest.Seal(snapKeys, h, &b)
	r.ok(err)
	p.Card, err = manifest.SealCard(r.tenant.Keys, 1, s, &manifest.Card{Sealed: h.Sealed, Suite: 1})
	r.ok(err)
	r.ok(w.Commit(ctx, p))
	return s, nil
}

// use does all that readers do with a snapshot. What it returns says whether it could be restored.
func (r *historyRig) use(what string, s format.ID) error {
	r.t.Helper()
	sn := r.read(s)
	defer sn.Close()
	var problem error
	rep, err := verify.Run(r.t.Context(), sn.VerifySource(), verify.Options{Level: verify.Data, Problem: func(p verify.Problem) { problem = errors.Join(problem, p.Err) }})
	r.ok(err)
	v := sn.View(r.t.Context())
	r.visit(what, v, vfs.RootIno, map[vfs.Ino]bool{})
	next, err := sn.NextIno(r.t.Context())
	r.ok(err)
	dev := device.NewMem(160 << 20)
	l, err := volume.NewLoader(dev, volume.FormatOptions{Recipient: r.kek}, volume.LoadOptions{Credential: r.cred, HashSeed: sn.Body.Seed, NextIno: next})
	if err == nil {
		if err = restore.Run(r.t.Context(), sn.RestoreSource(), l, restore.Options{}); err != nil {
			_ = l.Close()
		}
	}
	if err != nil {
		if !errors.Is(err, logical.ErrInvalid) && !errors.Is(err, selfenc.ErrMap) && !errors.Is(err, pack.ErrNoPack) && !errors.Is(err, pack.ErrDamaged) && !errors.Is(err, vfs.ErrNoSpace) {
			r.t.Fatalf("%s: restore: %v", what, err)
		}
		if rep.Problems == 0 && !errors.Is(err, vfs.ErrNoSpace) {
			r.t.Errorf("%s: a restore refuses it, verify does not: %v", what, err)
		}
		return err
	}
	if rep.Problems > 0 && !errors.Is(problem, pack.ErrDamaged) { // a wrong slot is of no concern for a restore
		r.t.Errorf("%s: it is restored, but verify says %v", what, problem)
	}
	r.restoredSame(what, dev, &create.Report{Content: sn.Content()})
	return nil
}

// visit reads all that a view has. Errors are fine, if they are of their kinds.
func (r *historyRig) visit(what string, v vfs.Reader, ino vfs.Ino, seen map[vfs.Ino]bool) {
	r.t.Helper()
	if seen[ino] {
		return
	}
	seen[ino] = true
	check := func(err error) bool {
		r.t.Helper()
		if err != nil && !errors.Is(err, vfs.ErrCorrupt) && !errors.Is(err, vfs.ErrStale) && !errors.Is(err, vfs.ErrNoData) && !errors.Is(err, vfs.ErrNotExist) && !errors.Is(err, vfs.ErrNotDir) {
			r.t.Fatalf("%s: inode %d: %v", what, ino, err)
		}
		return err == nil
	}
	a, err := v.GetAttr(ino)
	if !check(err) {
		return
	}
	_, err = v.ListXattr(ino)
	check(err)
	switch a.Mode & logical.TypeMask {
	case logical.TypeDir:
		var list []vfs.Dirent
		check(v.ReadDir(ino, 0, false, func(d vfs.Dirent, _ *vfs.Attr) bool {
			list = append(list, d)
			return true
		}))
		_, err := v.Parent(ino)
		check(err)
		for _, d := range list {
			_, err := v.Lookup(ino, d.Name)
			check(err)
			r.visit(what, v, d.Ino, seen)
		}
	case logical.TypeReg:
		b := make([]byte, 100000)
		for _, off := range []uint64{0, a.Size - min(a.Size, 50000)} {
			_, err := v.Read(ino, off, b)
			check(err)
			at, err := v.SeekData(ino, off)
			check(err)
			_, err = v.SeekHole(ino, at)
			check(err)
		}
	case logical.TypeLink:
		_, err := v.Readlink(ino)
		check(err)
	}
}

// TestHostileFacts: whoever holds all keys stores facts of no volume. Readers give errors, restores
// give an error or the volume that the facts describe.
func TestHostileFacts(t *testing.T) {
	seed := *historySeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-snapshot.seed=%d", seed)
	h := volumetest.NewHistory(t, seed, 96<<20)
	r := newHistoryRig(t, h, snapstore.Options{ChunkBytes: 16 << 10, PackBytes: 1 << 20})
	h.Steps(300)
	_, err := h.V.CreateSnapshot("s")
	r.ok(err)
	rep := r.put("", "s", r.options(nil))
	sn := r.read(rep.S)
	facts := r.items(sn)
	whole, refused := 0, 0
	for i := range *hostileCount {
		f := maps.Clone(facts)
		what := ""
		for range 1 + h.Rng.IntN(3) {
			what += r.mutate(f) + "; "
		}
		s, err := r.forge(sn, f)
		if err != nil {
			refused++
			continue
		}
		if r.use(fmt.Sprintf("%d: %s", i, what), s) == nil {
			whole++
		}
	}
	t.Logf("%d of %d could not be stored, %d could be restored", refused, *hostileCount, whole)
	h.Close()
}

// mutate changes facts.
func (r *historyRig) mutate(f items) string {
	rng := r.h.Rng
	keys := slices.SortedFunc(maps.Keys(f), logical.Key.Compare)
	k, other := keys[rng.IntN(len(keys))], keys[rng.IntN(len(keys))]
	if rng.IntN(2) == 0 { // facts of content are few
		data := slices.DeleteFunc(slices.Clone(keys), func(k logical.Key) bool { return k.Type != logical.DataType && k.Type != logical.InlineType })
		if len(data) > 0 {
			k = data[rng.IntN(len(data))]
		}
	}
	switch rng.IntN(9) {
	case 0:
		delete(f, k)
		return fmt.Sprint("without ", k)
	case 1:
		to := k
		to.Ino = other.Ino
		f[to] = f[k]
		return fmt.Sprint(k, " also of ", to.Ino)
	case 2:
		to := k
		to.Ino = rng.Uint64() >> rng.IntN(64)
		f[to] = f[k]
		return fmt.Sprint(k, " also of ", to.Ino)
	case 3:
		to := k
		to.Sub += uint64(rng.IntN(512))
		f[to] = f[k]
		return fmt.Sprint(k, " also at ", to.Sub)
	case 4, 5:
		return r.mutateInode(f, logical.Key{Ino: k.Ino, Type: logical.InodeType})
	case 6:
		if k.Type == other.Type {
			f[k], f[other] = f[other], f[k]
			return fmt.Sprint(k, " and ", other, " exchanged")
		}
	case 7:
		if o, err := fact.DecodeData(f[k]); k.Type == logical.DataType && err == nil {
			o.Bytes += []int64{-1, 1, 4096, 1 << 20, 1 << 40, 1 << 62}[rng.IntN(6)]
			if b, err := fact.AppendData(nil, &o); err == nil {
				f[k] = b
				return fmt.Sprint(k, " has ", o.Bytes, " bytes")
			}
		}
	case 8:
		if o, err := fact.DecodeData(f[k]); k.Type == logical.DataType && err == nil {
			o.Root.Slot, o.Root.Pack = uint16(rng.IntN(100)), o.Root.Pack+rng.Uint32N(3)
			o.Content[3] ^= byte(rng.IntN(2))
			if b, err := fact.AppendData(nil, &o); err == nil {
				f[k] = b
				return fmt.Sprint(k, " is elsewhere")
			}
		}
	}
	return r.mutateInode(f, logical.Key{Ino: k.Ino, Type: logical.InodeType})
}

func (r *historyRig) mutateInode(f items, k logical.Key) string {
	rng := r.h.Rng
	n, err := fact.DecodeInode(f[k])
	if err != nil {
		return "nothing"
	}
	switch rng.IntN(5) {
	case 0:
		n.Size = uint64([]int64{int64(n.Size) + 1, int64(n.Size) - 1, 0, 1 << 40, 1<<63 - 1, 2049}[rng.IntN(6)])
	case 1:
		n.Nlink += rng.Uint32N(3) - 1
	case 2:
		n.Parent = rng.Uint64N(40)
	case 3:
		n.Mode = n.Mode&0o7777 | []uint32{0o100000, 0o040000, 0o120000, 0o010000}[rng.IntN(4)]
	case 4:
		n.NameSub = rng.Uint64()
	}
	b, err := fact.AppendInode(nil, &n)
	if err != nil {
		return "nothing"
	}
	f[k] = b
	return fmt.Sprintf("inode %d: %+v", k.Ino, n)
}
