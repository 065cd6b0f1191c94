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

// Anchor names one committed state of one volume, for safe keeping off its
// device: given to Open, it has a device refused that holds an older state, or
// one that does not follow from it. Nothing in it is secret; without the
// volume's keys none can be made.
type Anchor = header.Anchor

// ParseAnchor reads what Anchor.MarshalJSON wrote.
func ParseAnchor(b []byte) (Anchor, error) { return header.ParseAnchor(b) }

// anchors are the states of an open volume that were given away, or may be.
//
// An anchor leaves the volume only after a root that names it as offered is
// durable: whatever crash follows, each later root knows it, until it is
// confirmed and lies in the tree of anchors. So an anchor that arrives late is
// still part of the history.
type anchors struct {
	v *Volume

	tree *tree.Tree
	kept []uint64 // generations in the tree, ascending; owned by the committer

	one sync.Mutex // one offer at a time; before gate

	mu      sync.Mutex             // a leaf lock
	used    bool                   // somebody keeps anchors of this volume
	offered []layout.OfferedAnchor // ascending; what the next root has
	fresh   []keptAnchor           // for the tree, by the next commit
	newest  keptAnchor             // confirmed last
	last    Anchor                 // offered by a durable root; zero: none by this mount
	content [3]layout.Pointer      // what it anchors
}

type keptAnchor struct {
	gen uint64
	layout.Anchored
}

// contentOf is what tells two roots of the same content from others.
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

// OfferAnchor returns the anchor of a state that is durable and holds all that
// was committed before the call. Keep it where the device's owner cannot
// reach, durably, and then call ConfirmAnchor. Nothing else happens to an anchor
// that gets lost on the way. While nothing changes, it returns the same again;
// after layout.MaxAnchorsOffered without any confirmation, the newest of these.
func (v *Volume) OfferAnchor() (Anchor, error) {
	a := &v.anc
	if err := v.frozen.enter(context.Background()); err != nil { // not while frozen: it takes a commit
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

// settle notes that a durable root names an anchor as offered.
func (a *anchors) settle(last Anchor, content [3]layout.Pointer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last, a.content = last, content
}

// offer has the next root offer the newest durable one. It returns the anchor
// that may be given away, by settle, once that next root is durable: zero if
// that of before still stands. The caller holds anc.one.
func (a *anchors) offer() (next Anchor, content [3]layout.Pointer) {
	v := a.v
	// No newer root becomes durable before this one is listed: the root that
	// follows names it as its predecessor, the next one has the list.
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
		at = a.offered[n-1] // nobody confirms; what was given out may not be forgotten
		content = [3]layout.Pointer{}
	} else if n == 0 || a.offered[n-1].Generation < at.Generation {
		a.offered = append(slices.Clip(a.offered), at)
	}
	return a.anchorOf(v.durable.root, at), content
}

// commitLast commits for the last time. If anchors are kept of the volume, the
// last root offers the one before, which has the same content: an anchor of the
// last root itself could be in no root.
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

// commitAnchored commits what the last commit is to anchor, if anchors are kept
// of the volume. The committer has ended.
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

// LastAnchor returns what was offered last, also after Close: then it is the
// anchor of all that the volume holds. ok is false if nobody uses anchors.
func (v *Volume) LastAnchor() (last Anchor, ok bool) {
	a := &v.anc
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last, a.last.Epoch != 0
}

// ConfirmAnchor notes that an anchor is kept durably where Open will get it
// from. The volume remembers the last 1,024.
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
		return nil // this or a later one is confirmed already
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

// confirm takes an anchor, and what was offered before it, for the tree. The
// caller holds mu, or nobody else uses the volume yet.
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

// freezeAnchors puts what was confirmed into the tree, and what was offered into a
// root. The caller holds the gate alone, and nothing is frozen yet.
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

// load checks the anchor that Open was given, and for a mount that
// writes reads what the volume knows of anchors. Nobody else uses the volume yet.
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
	// Whoever has it keeps it durably; perhaps nobody was there any more to be told.
	if g := v.opts.Anchor.Generation; g > a.newest.gen {
		a.confirm(keptAnchor{g, layout.Anchored{R: r, Epoch: v.opts.Anchor.Epoch}})
	}
	return nil
}

// VerifyAnchor checks a device against an anchor and changes nothing. The
// volume may be in use meanwhile.
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
