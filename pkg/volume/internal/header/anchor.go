package header

import (
	"bytes"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
)

// Errors of opening with an anchor.
var (
	ErrRolledBack  = errors.New("the device was rolled back to an older state")
	ErrForked      = errors.New("the device's history differs from the anchored one")
	ErrOtherVolume = errors.New("the device does not hold the volume that was anchored")
)

// Anchor identifies a committed state of one volume. It is kept outside of the device. Open refuses
// a device that holds an older state than the anchor given to it, or a state that does not follow
// from it. An anchor is not secret. Without the volume's keys, nobody can make one.
type Anchor struct {
	Volume     crypto.UUID
	Instance   crypto.UUID // of the device: clones have their own anchors
	Generation uint64
	Epoch      uint32 // of the data key
	MAC        [32]byte
}

// anchorJSON is the stored form of an anchor.
type anchorJSON struct {
	Version    int    `json:"version"`
	Volume     string `json:"volume"`
	Instance   string `json:"instance"`
	Generation uint64 `json:"generation"`
	Epoch      uint32 `json:"epoch"`
	Anchor     string `json:"anchor"`
}

// MarshalJSON implements json.Marshaler.
func (a Anchor) MarshalJSON() ([]byte, error) {
	return json.Marshal(anchorJSON{1, a.Volume.String(), a.Instance.String(), a.Generation, a.Epoch, hex.EncodeToString(a.MAC[:])})
}

// UnmarshalJSON implements json.Unmarshaler, as strictly as ParseAnchor.
func (a *Anchor) UnmarshalJSON(b []byte) (err error) {
	*a, err = ParseAnchor(b)
	return err
}

// ParseAnchor reads what MarshalJSON wrote.
func ParseAnchor(b []byte) (a Anchor, err error) {
	var j anchorJSON
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return a, fmt.Errorf("malformed anchor: %w", err)
	}
	if d.More() {
		return a, errors.New("malformed anchor: trailing data")
	}
	if j.Version != 1 {
		return a, fmt.Errorf("anchor version %d: %w", j.Version, layout.ErrNewerFormat)
	}
	if a.Volume, err = crypto.ParseUUID(j.Volume); err != nil {
		return a, fmt.Errorf("malformed anchor: %w", err)
	}
	if a.Instance, err = crypto.ParseUUID(j.Instance); err != nil {
		return a, fmt.Errorf("malformed anchor: %w", err)
	}
	mac, err := hex.DecodeString(j.Anchor)
	if err != nil || len(mac) != len(a.MAC) || j.Generation == 0 || j.Epoch == 0 {
		return a, errors.New("malformed anchor")
	}
	a.Generation, a.Epoch, a.MAC = j.Generation, j.Epoch, [32]byte(mac)
	return a, nil
}

// MatchAnchor returns the hash of the anchored root, if that is root itself or one of its
// predecessors.
func MatchAnchor(a *Anchor, keys *txn.Keys, root *layout.Root, rootR [32]byte, kept *tree.Tree) (r [32]byte, err error) {
	id, newest := keys.Newest().ID(), keys.Newest().Epoch()
	switch {
	case a.Volume != id:
		return r, fmt.Errorf("%w: the anchor belongs to volume %v, but the device holds volume %v", ErrOtherVolume, a.Volume, id)
	case a.Instance != root.Instance:
		return r, fmt.Errorf("%w: the anchor belongs to instance %v, but the device is instance %v: one is a clone of the other", ErrOtherVolume, a.Instance, root.Instance)
	case a.Generation > root.Generation:
		return r, fmt.Errorf("%w: its newest generation is %d, the anchor's is %d", ErrRolledBack, root.Generation, a.Generation)
	case a.Epoch > newest:
		return r, fmt.Errorf("%w: its newest key epoch is %d, the anchor's is %d", ErrRolledBack, newest, a.Epoch)
	case keys.Get(a.Epoch) == nil:
		return r, fmt.Errorf("%w: the volume no longer has the anchor's key epoch %d", ErrForked, a.Epoch)
	}
	k := keys.Get(a.Epoch)
	match := func(c [32]byte) bool {
		mac := k.Anchor(a.Generation, c)
		return subtle.ConstantTimeCompare(mac[:], a.MAC[:]) == 1
	}
	if a.Generation == root.Generation {
		if match(rootR) {
			return rootR, nil
		}
		return r, fmt.Errorf("%w: its generation %d differs from the anchored one", ErrForked, a.Generation)
	}
	var candidates [][32]byte
	for _, o := range root.Offered {
		if o.Generation == a.Generation {
			candidates = append(candidates, o.R)
		}
	}
	val, ok, err := kept.Get(items.AnchorKey(a.Generation), nil)
	if err != nil {
		return r, fmt.Errorf("anchors: %w", err)
	}
	if ok {
		x, err := layout.DecodeAnchored(val)
		if err != nil {
			return r, err
		}
		candidates = append(candidates, x.R)
	}
	for _, c := range candidates {
		if match(c) {
			return c, nil
		}
	}
	return r, fmt.Errorf("%w: generation %d does not follow from the anchored generation %d", ErrForked, root.Generation, a.Generation)
}

// heldBy detects early that a device does not hold the anchored volume, because it was zeroed or
// formatted again, so that perhaps no key fits. The header is not authenticated yet; MatchAnchor
// checks again.
func (a *Anchor) heldBy(hs *layout.Headers) error {
	h, _, err := hs.Best()
	if errors.Is(err, layout.ErrNotSealvol) {
		return fmt.Errorf("%w: %w; the anchor belongs to volume %v", ErrOtherVolume, err, a.Volume)
	}
	if err == nil && h.ID != a.Volume && hs.Copy[0] != nil && hs.Copy[1] != nil && hs.Copy[0].ID == hs.Copy[1].ID {
		return fmt.Errorf("%w: the anchor belongs to volume %v, but the device holds volume %v", ErrOtherVolume, a.Volume, h.ID)
	}
	return nil
}

// AnchorTree opens the tree of confirmed anchors for reading.
func AnchorTree(s *txn.Store, root *layout.Root) *tree.Tree {
	return tree.New(tree.Config{ID: layout.TreeAnchors, Cache: tree.NewCache(0, s.ReadNode)}, root.Trees[layout.TreeAnchors], root.Generation+1)
}
