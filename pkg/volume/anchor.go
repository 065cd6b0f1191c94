package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/header"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// Anchor identifies a committed state of one volume. It is kept outside of the device. Open refuses
// a device that holds an older state than the anchor given to it, or a state that does not follow
// from it. An anchor is not secret. Without the volume's keys, nobody can make one.
type Anchor = header.Anchor

// ParseAnchor reads what Anchor.MarshalJSON wrote.
func ParseAnchor(b []byte) (Anchor, error) { return header.ParseAnchor(b) }

// anchors owns the states of an open volume that were offered as anchors.
//
// An anchor leaves the volume only after a root that lists it as offered is durable. Each later
// root keeps the entry, whatever crash follows, until the anchor is confirmed and in tree 5. So an
// anchor that arrives late is still part of the history.
type anchors struct {
	v *Volume

	tree *tree.Tree
	kept []uint64 // generations in tree 5, ascending; owned by the committer

	one sync.Mutex // serializes offers; before gate

	mu      sync.Mutex             // a leaf lock
	used    bool                   // anchors of this volume are in use
	offered []layout.OfferedAnchor // ascending; the next root lists them
	fresh   []keptAnchor           // for tree 5, stored by the next commit
	newest  keptAnchor             // the latest confirmed one
	last    Anchor                 // offered by a durable root; zero if this mount has offered none
	content [3]layout.Pointer      // trees of the state that last identifies
}

type keptAnchor struct {
	gen uint64
	layout.Anchored
}

// contentOf distinguishes roots with different content.
func contentOf(r *layout.Root) [3]layout.Pointer {
	return [3]layout.Pointer{r.Trees[layout.TreeFS], r.Trees[layout.TreeSnapshots], r.Trees[layout.TreeShares]}
}

func sameContent(a, b [3]layout.Pointer) bool {
	for i := range a {
		if a[i].Addr != b[i].Addr || a[i].Nonce != b[i].Nonce {
			return false
		}
	}
	return true
}

// OfferAnchor returns the anchor of a durable state that includes everything committed before the
// call. Store it durably where the owner of the device cannot change it, and then call
// ConfirmAnchor. A lost anchor does no harm. While nothing changes, OfferAnchor returns the same
// anchor again. After layout.MaxAnchorsOffered anchors without a confirmation, it returns the
// newest of them.
func (v *Volume) OfferAnchor() (Anchor, error) {
	a := &v.anc
	if err := v.frozen.enter(context.Background()); err != nil { // waits for a thaw, because it needs a commit
		return Anchor{}, err
	}
	defer v.frozen.leave()
	a.one.Lock()
	defer a.one.Unlock()
	next, content := v.anc.offer()
	if next.Epoch != 0 {
		if err := v.com.commitAll(); err != nil {
			return Anchor{}, v.sync.syncErr(err)
		}
		a.settle(next, content)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last, nil
}

// settle records that a durable root lists an anchor as offered.
func (a *anchors) settle(last Anchor, content [3]layout.Pointer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last, a.content = last, content
}

// offer makes the next root list the newest durable root as offered. It returns the anchor, which
// settle publishes once that next root is durable, or zero if the previous offer is still valid.
// The caller holds anchors.one.
func (a *anchors) offer() (next Anchor, content [3]layout.Pointer) {
	v := a.v
	// No newer root becomes durable before this one is listed: the next root names it as its
	// predecessor, the one after has the list.
	v.durable.mu.Lock()
	defer v.durable.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.used = true
	content = contentOf(v.durable.root)
	if a.last.Epoch == v.store.Keys.Newest().Epoch() && sameContent(a.content, content) {
		return next, content
	}
	at := layout.OfferedAnchor{Generation: v.durable.root.Generation, R: v.durable.r}
	if n := len(a.offered); n >= layout.MaxAnchorsOffered {
		at = a.offered[n-1] // without confirmation, offers must not be forgotten
		content = [3]layout.Pointer{}
	} else if n == 0 || a.offered[n-1].Generation < at.Generation {
		a.offered = append(slices.Clip(a.offered), at)
	}
	return a.anchorOf(v.durable.root, at), content
}

// commitLast makes the last commit. If anchors of the volume are in use, the last root offers its
// predecessor, which has the same content. No root can list the anchor of the last root itself.
func (a *anchors) commitLast() error {
	v := a.v
	a.one.Lock()
	defer a.one.Unlock()
	a.mu.Lock()
	used := a.used
	a.mu.Unlock()
	if !used {
		return v.com.commit(true)
	}
	next, content := a.offer()
	err := v.com.commit(true)
	if err == nil && next.Epoch != 0 {
		a.settle(next, content)
	}
	return err
}

// commitAnchored commits the state that the last commit will anchor, if anchors of the volume are
// in use. The committer has ended.
func (a *anchors) commitAnchored() error {
	v := a.v
	a.mu.Lock()
	used := a.used
	a.mu.Unlock()
	if !used {
		return nil
	}
	err := v.com.commit(false)
	if err != nil {
		v.fail(err)
	}
	return err
}

func (a *anchors) anchorOf(root *layout.Root, at layout.OfferedAnchor) Anchor {
	v := a.v
	k := v.store.Keys.Newest()
	return Anchor{Volume: v.id, Instance: root.Instance, Generation: at.Generation, Epoch: k.Epoch(), MAC: k.Anchor(at.Generation, at.R)}
}

// LastAnchor returns the latest offer. After Close, that is the anchor of everything that the
// volume holds. ok is false if no anchors are in use.
func (v *Volume) LastAnchor() (last Anchor, ok bool) {
	a := &v.anc
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last, a.last.Epoch != 0
}

// ConfirmAnchor records that an anchor is stored durably where Open will get it from. The volume
// remembers the last 1,024 confirmed anchors.
func (v *Volume) ConfirmAnchor(c Anchor) error {
	a := &v.anc
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.Volume != v.id {
		return fmt.Errorf("%w: the anchor belongs to volume %v", ErrOtherVolume, c.Volume)
	}
	if c.Generation <= a.newest.gen {
		if c.Generation == a.newest.gen && c.Epoch > a.newest.Epoch {
			a.newest.Epoch = c.Epoch
			a.fresh = append(a.fresh, a.newest)
			v.rot.kick()
		}
		return nil // this or a later one was already confirmed
	}
	for _, o := range a.offered {
		if o.Generation == c.Generation {
			a.confirm(keptAnchor{o.Generation, layout.Anchored{R: o.R, Epoch: c.Epoch}})
			v.rot.kick()
			return nil
		}
	}
	return fmt.Errorf("%w: generation %d was never offered", ErrForked, c.Generation)
}

// confirm queues an anchor and all older offers for tree 5. The caller holds mu, or nobody else
// uses the volume yet.
func (a *anchors) confirm(k keptAnchor) {
	a.newest = k
	n := 0
	for n < len(a.offered) && a.offered[n].Generation < k.gen {
		o := a.offered[n]
		a.fresh = append(a.fresh, keptAnchor{o.Generation, layout.Anchored{R: o.R, Epoch: k.Epoch}})
		n++
	}
	if n < len(a.offered) && a.offered[n].Generation == k.gen {
		n++
	}
	a.fresh = append(a.fresh, k)
	a.offered = slices.Clone(a.offered[n:])
}

// freezeAnchors stores confirmed anchors in tree 5 and offered ones in the root. The caller holds
// the gate exclusively, and no tree is frozen yet.
func (a *anchors) freezeAnchors() error {
	a.mu.Lock()
	fresh := a.fresh
	a.fresh = nil
	a.mu.Unlock()
	if len(fresh) == 0 {
		return nil
	}
	return a.tree.Update(func(w *tree.Writer) error {
		for _, k := range fresh {
			if err := w.Put(items.AnchorKey(k.gen), k.Append(nil)); err != nil {
				return err
			}
			if at, found := slices.BinarySearch(a.kept, k.gen); !found {
				a.kept = slices.Insert(a.kept, at, k.gen)
			}
		}
		for len(a.kept) > layout.MaxAnchorsKept {
			if _, err := w.Delete(items.AnchorKey(a.kept[0])); err != nil {
				return err
			}
			a.kept = a.kept[1:]
		}
		return nil
	})
}

func (a *anchors) offers() []layout.OfferedAnchor {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.offered)
}

// load checks the anchor that Open was given. For a read-write mount it also reads the anchors that
// the volume knows. Nobody else uses the volume yet.
func (a *anchors) load(root *layout.Root) error {
	v := a.v
	a.offered = root.Offered
	var derr error
	err := a.tree.Scan(items.AnchorKey(0), items.AnchorKey(^uint64(0)), func(k layout.Key, val []byte) bool {
		var x layout.Anchored
		if x, derr = layout.DecodeAnchored(val); derr != nil {
			return false
		}
		a.kept = append(a.kept, k.Sub)
		a.newest = keptAnchor{k.Sub, x}
		return len(a.kept) <= layout.MaxAnchorsKept
	})
	if err = errors.Join(err, derr); err != nil {
		return fmt.Errorf("anchors: %w", err)
	}
	if len(a.kept) > layout.MaxAnchorsKept {
		return fmt.Errorf("%w: more than %d anchors", layout.ErrCorrupt, layout.MaxAnchorsKept)
	}
	if v.opts.Anchor == nil {
		return nil
	}
	r, err := header.MatchAnchor(v.opts.Anchor, v.store.Keys, root, v.durable.r, a.tree)
	if err != nil {
		return err
	}
	a.used = true
	// Whoever gave it to Open stores it durably, although the confirmation may have been lost.
	if g := v.opts.Anchor.Generation; g > a.newest.gen {
		a.confirm(keptAnchor{g, layout.Anchored{R: r, Epoch: v.opts.Anchor.Epoch}})
	}
	return nil
}

// VerifyAnchor checks a device against an anchor and changes nothing. The volume may be in use.
func VerifyAnchor(dev device.Device, cred crypto.Credential, a *Anchor) error {
	u, keys, err := header.Unlock(dev, cred, a)
	if err != nil {
		return err
	}
	defer crypto.EraseEpochs(u.Epochs)
	defer keys.Erase()
	store := &txn.Store{Dev: dev, Keys: keys}
	found, _, err := header.NewestRoot(dev, store, u)
	if err != nil {
		return txn.Wrap(err)
	}
	_, err = header.MatchAnchor(a, keys, found[0].Root, found[0].R, header.AnchorTree(store, found[0].Root))
	return txn.Wrap(err)
}
