package volumectl

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/volume"
)

// KeySlot is a key slot in use.
type KeySlot struct {
	Slot        int    `json:"slot"`
	Type        string `json:"type"`
	Epochs      int    `json:"epochs"`                // of the data key, whose keys the slot holds
	Fingerprint string `json:"fingerprint,omitempty"` // of the recovery key
	Opened      bool   `json:"opened,omitempty"`      // the volume was opened with it
}

// KeyList is the answer to key-list.
type KeyList struct {
	Slots    []KeySlot `json:"slots"`
	Epochs   []uint32  `json:"epochs,omitempty"` // of the data key
	Rotation *Rotation `json:"rotation,omitempty"`
}

// Rotation says how far a rotation of the data key is; it is the answer to key-rotate-data.
type Rotation struct {
	Phase      string   `json:"phase"` // "none", "rewriting", "waiting", "finishing"
	Epochs     []uint32 `json:"epochs"`
	Target     uint32   `json:"target,omitempty"`
	DoneBytes  uint64   `json:"doneBytes"`
	TotalBytes uint64   `json:"totalBytes"`
	Snapshots  []string `json:"snapshots,omitempty"` // those that need an older epoch
	Waits      string   `json:"waits,omitempty"`     // what it waits for
	Dropped    []int    `json:"dropped,omitempty"`   // the key slots that were removed
}

// KeyRemove are the arguments of key-remove.
type KeyRemove struct {
	Slot int  `json:"slot"`
	Last bool `json:"last,omitempty"` // remove it even if it is the last one
}

// KeyChange is the answer to key-add, key-remove and key-rotate.
type KeyChange struct {
	Slot    int   `json:"slot"`              // of the new key, or -1 for none
	Added   bool  `json:"added"`             // by this call
	Removed []int `json:"removed,omitempty"` // slots
}

// RotateData are the arguments of key-rotate-data.
type RotateData struct {
	Drop           bool  `json:"drop,omitempty"`
	Again          bool  `json:"again,omitempty"`
	Resume         bool  `json:"resume,omitempty"` // do not start a new one
	BytesPerSecond int64 `json:"bytesPerSecond,omitempty"`
	Wait           bool  `json:"wait,omitempty"` // until it has ended or waits for something
}

// KeyCheck asks whether the keys that come with the request open the volume.
const KeyCheck = "key-check"

// KeyShred are the arguments of key-shred.
type KeyShred struct {
	Volume string `json:"volume"` // its UUID, so that no other volume is destroyed
}

// keyCodes name the errors that callers distinguish.
var keyCodes = []struct {
	err  error
	code string
}{
	{volume.ErrWrongKey, control.CodeWrongKey}, {volume.ErrLastKey, "last-key"}, {volume.ErrNoSuchKey, "no-such-key"}, {volume.ErrKeyExists, "key-exists"},
	{volume.ErrNoFreeSlot, "no-free-slot"}, {volume.ErrKeyMissing, "key-missing"}, {volume.ErrShredded, "shredded"},
}

// withCode gives an error the code by which callers recognise it.
func withCode(err error) error {
	for _, c := range keyCodes {
		if errors.Is(err, c.err) {
			return control.WithCode(c.code, err)
		}
	}
	return err
}

// FromServer returns the error that a server's answer stands for.
func FromServer(err error) error {
	for _, c := range keyCodes {
		if control.HasCode(err, c.code) {
			return &keyError{err, c.err}
		}
	}
	return err
}

type keyError struct {
	error
	kind error
}

func (e *keyError) Unwrap() []error { return []error{e.error, e.kind} }

// addKeys adds the requests about keys and anchors.
func (s *Server) addKeys(m control.Mux) {
	m["key-list"] = func(context.Context, *control.Call) (any, error) { return ListKeys(s.Volume), nil }
	m[KeyCheck] = s.withKeys(nil, func(_ context.Context, _ *control.Call, k *KeySet) (any, error) {
		return nil, k.Check(s.Volume.OpenedBy)
	})
	m["key-add"] = s.withKeys(nil, func(_ context.Context, _ *control.Call, k *KeySet) (any, error) { return AddKey(s.Volume, k) })
	m["key-rotate"] = s.withKeys(nil, func(ctx context.Context, _ *control.Call, k *KeySet) (any, error) { return RotateKey(ctx, s.Volume, k) })
	m[control.KeyCurrent] = func(ctx context.Context, c *control.Call) (any, error) {
		if c.File() == nil {
			return nil, errors.New("the request has no key")
		}
		k, err := readKEKs(c.File())
		if err != nil {
			return nil, err
		}
		defer k.Erase()
		r, err := CurrentKey(ctx, s.Volume, s.ReadOnly, k)
		return r, withCode(err)
	}
	m["key-remove"] = func(_ context.Context, c *control.Call) (any, error) {
		var a KeyRemove
		if err := c.Args(&a); err != nil {
			return nil, err
		}
		r, err := RemoveKey(s.Volume, a)
		return r, withCode(err)
	}
	m["key-rotate-data"] = func(ctx context.Context, c *control.Call) (any, error) {
		var a RotateData
		return s.withKeys(&a, func(ctx context.Context, c *control.Call, k *KeySet) (any, error) {
			return RotateDataKey(ctx, s.Volume, k, a, c.Progress)
		})(ctx, c)
	}
	m["key-shred"] = func(_ context.Context, c *control.Call) (any, error) {
		var a KeyShred
		if err := c.Args(&a); err != nil {
			return nil, err
		}
		if id := s.Volume.ID().String(); a.Volume != id {
			return nil, fmt.Errorf("the volume has the UUID %s, not %s", id, a.Volume)
		}
		return s.Volume.Shred()
	}
	m["anchor"] = func(context.Context, *control.Call) (any, error) { return s.Volume.OfferAnchor() }
	m["anchor-confirm"] = func(_ context.Context, c *control.Call) (any, error) {
		var raw struct {
			Anchor volume.Anchor `json:"anchor"`
		}
		if err := c.Args(&raw); err != nil {
			return nil, err
		}
		return nil, s.Volume.ConfirmAnchor(raw.Anchor)
	}
}

// withKeys reads a request's arguments, unless args is nil, and its keys. It erases the keys
// afterwards.
func (s *Server) withKeys(args any, fn func(context.Context, *control.Call, *KeySet) (any, error)) func(context.Context, *control.Call) (any, error) {
	keyed := WithKeys(fn)
	return func(ctx context.Context, c *control.Call) (any, error) {
		if args != nil {
			if err := c.Args(args); err != nil {
				return nil, err
			}
		}
		return keyed(ctx, c)
	}
}

// WithKeys returns a function that answers a request with the keys that come with it. It erases
// them afterwards, and gives errors about keys their code.
func WithKeys(fn func(context.Context, *control.Call, *KeySet) (any, error)) func(context.Context, *control.Call) (any, error) {
	return func(ctx context.Context, c *control.Call) (any, error) {
		k := &KeySet{}
		if c.File() != nil {
			var err error
			if k, err = ReadKeys(c.File()); err != nil {
				return nil, err
			}
		}
		defer k.Erase()
		r, err := fn(ctx, c, k)
		return r, withCode(err)
	}
}

// Check is the answer to key-check: each key must open the volume.
func (s *KeySet) Check(opens func(crypto.Credential) bool) error {
	if len(s.Old) == 0 {
		return errors.New("the request has no key")
	}
	for _, c := range s.Old {
		if !opens(c) {
			return fmt.Errorf("%w: the key opens no key slot of the volume", volume.ErrWrongKey)
		}
	}
	return nil
}

// ListKeys is the answer to key-list.
func ListKeys(v *volume.Volume) KeyList {
	slots, epochs := v.Keys()
	l := KeyList{Slots: []KeySlot{}, Epochs: epochs}
	for _, s := range slots {
		l.Slots = append(l.Slots, KeySlot{s.Index, crypto.SlotTypeName(s.Type), s.Epochs, s.Fingerprint, s.Opened})
	}
	if st := v.RotationStatus(); st.Phase != volume.RotationNone {
		r := rotation(st)
		l.Rotation = &r
	}
	return l
}

func rotation(s volume.RotationStatus) Rotation {
	return Rotation{Phase: string(s.Phase), Epochs: s.Epochs, Target: s.Target, DoneBytes: s.DoneBytes, TotalBytes: s.TotalBytes,
		Snapshots: s.Snapshots, Waits: s.Waits, Dropped: s.Dropped}
}

// AddKey is the answer to key-add: keys.New gets a slot.
func AddKey(v *volume.Volume, keys *KeySet) (KeyChange, error) {
	if keys.New == nil {
		return KeyChange{}, errors.New("the request has no new key")
	}
	slot, err := v.AddKey(*keys.New)
	return KeyChange{Slot: slot, Added: err == nil}, err
}

// RemoveKey is the answer to key-remove.
func RemoveKey(v *volume.Volume, a KeyRemove) (KeyChange, error) {
	if err := v.RemoveKey(a.Slot, a.Last); err != nil {
		return KeyChange{}, err
	}
	return KeyChange{Slot: -1, Removed: []int{a.Slot}}, nil
}

// RotateKey is the answer to key-rotate: keys.New replaces the key in keys.Old.
func RotateKey(ctx context.Context, v *volume.Volume, keys *KeySet) (KeyChange, error) {
	if keys.New == nil || len(keys.Old) != 1 {
		return KeyChange{}, errors.New("the request needs one old key and a new key")
	}
	c, err := v.RotateKey(ctx, keys.Old[0], *keys.New)
	return KeyChange{Slot: c.Slot, Added: c.Added, Removed: c.Removed}, err
}

// CurrentKey is the answer to key-current: keys.New must open the volume from now on, and keys.Old
// may be the previous key. It may be repeated at any time, and changes nothing if the volume has
// the right key already. It removes the old key after both copies of the header have been read back
// with the new one. It changes nothing if its caller has gone while the volume was frozen, because
// the keys may be outdated by then.
func CurrentKey(ctx context.Context, v *volume.Volume, readOnly bool, keys *KeySet) (KeyChange, error) {
	none := KeyChange{Slot: -1}
	switch is := v.OpenedBy(keys.New.Credential); {
	case !is && (len(keys.Old) == 0 || !v.OpenedBy(keys.Old[0])): // works on a frozen volume, where a change would wait
		return none, fmt.Errorf("check the current key: %w", volume.ErrWrongKey)
	case len(keys.Old) == 0, readOnly:
		return none, nil
	case is && !v.OpenedBy(keys.Old[0]):
		return none, nil
	}
	c, err := RotateKey(ctx, v, keys)
	if errors.Is(err, volume.ErrKeyExists) { // both keys are the same
		return none, nil
	}
	return c, err
}

// RotateDataKey is the answer to key-rotate-data.
func RotateDataKey(ctx context.Context, v *volume.Volume, keys *KeySet, a RotateData, progress func(done, total uint64)) (Rotation, error) {
	s, err := v.RotateDataKey(volume.RotateOptions{Keys: keys.Old, Drop: a.Drop, Again: a.Again, Resume: a.Resume, BytesPerSecond: a.BytesPerSecond})
	if err != nil || !a.Wait {
		return rotation(s), err
	}
	dropped := s.Dropped
	s, err = v.WaitRotation(ctx, func(s volume.RotationStatus) { progress(s.DoneBytes, s.TotalBytes) })
	s.Dropped = dropped
	return rotation(s), err
}
