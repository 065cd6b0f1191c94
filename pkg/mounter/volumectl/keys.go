package volumectl

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/volume"
)

// KeySlot is one key slot in use.
type KeySlot struct {
	Slot        int    `json:"slot"`
	Type        string `json:"type"`
	Epochs      int    `json:"epochs"`                // of the data key that it holds
	Fingerprint string `json:"fingerprint,omitempty"` // of a recovery key
	Opened      bool   `json:"opened,omitempty"`      // the volume was opened with it
}

// KeyList answers key-list.
type KeyList struct {
	Slots    []KeySlot `json:"slots"`
	Epochs   []uint32  `json:"epochs,omitempty"` // of the data key
	Rotation *Rotation `json:"rotation,omitempty"`
}

// Rotation tells how far a rotation of the data key has come; it answers key-rotate-data.
type Rotation struct {
	Phase      string   `json:"phase"` // "none", "rewriting", "waiting", "finishing"
	Epochs     []uint32 `json:"epochs"`
	Target     uint32   `json:"target,omitempty"`
	DoneBytes  uint64   `json:"doneBytes"`
	TotalBytes uint64   `json:"totalBytes"`
	Snapshots  []string `json:"snapshots,omitempty"` // that need an older epoch
	Waits      string   `json:"waits,omitempty"`     // for what
	Dropped    []int    `json:"dropped,omitempty"`   // key slots
}

// KeyRemove are the arguments of key-remove.
type KeyRemove struct {
	Slot int  `json:"slot"`
	Last bool `json:"last,omitempty"` // also if it is the last one
}

// KeyChange answers key-add, key-remove and key-rotate.
type KeyChange struct {
	Slot    int   `json:"slot"`              // of the new key, -1: none
	Added   bool  `json:"added"`             // by this call
	Removed []int `json:"removed,omitempty"` // slots
}

// RotateData are the arguments of key-rotate-data.
type RotateData struct {
	Drop           bool  `json:"drop,omitempty"`
	Again          bool  `json:"again,omitempty"`
	Resume         bool  `json:"resume,omitempty"` // begin none
	BytesPerSecond int64 `json:"bytesPerSecond,omitempty"`
	Wait           bool  `json:"wait,omitempty"` // until it has ended or waits for something
}

// KeyCheck asks whether the keys that come with the request open the volume.
const KeyCheck = "key-check"

// KeyShred are the arguments of key-shred.
type KeyShred struct {
	Volume string `json:"volume"` // its UUID, so that no other is hit
}

// keyCodes name the errors that callers tell apart.
var keyCodes = []struct {
	err  error
	code string
}{
	{volume.ErrWrongKey, control.CodeWrongKey}, {volume.ErrLastKey, "last-key"}, {volume.ErrNoSuchKey, "no-such-key"}, {volume.ErrKeyExists, "key-exists"},
	{volume.ErrNoFreeSlot, "no-free-slot"}, {volume.ErrKeyMissing, "key-missing"}, {volume.ErrShredded, "shredded"},
}

// withCode gives an error the code that a caller knows it by.
func withCode(err error) error {
	for _, c := range keyCodes {
		if errors.Is(err, c.err) {
			return control.WithCode(c.code, err)
		}
	}
	return err
}

// FromServer is the error that a server's answer stands for.
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

// addKeys names the requests about keys and anchors.
func (s *Server) addKeys(m control.Mux) {
	m["key-list"] = func(context.Context, *control.Call) (any, error) { return ListKeys(s.Volume), nil }
	m[KeyCheck] = s.withKeys(nil, func(_ context.Context, _ *control.Call, k *KeySet) (any, error) {
		return nil, k.Check(s.Volume.OpenedBy)
	})
	m["key-add"] = s.withKeys(nil, func(_ context.Context, _ *control.Call, k *KeySet) (any, error) { return AddKey(s.Volume, k) })
	m["key-rotate"] = s.withKeys(nil, func(ctx context.Context, _ *control.Call, k *KeySet) (any, error) { return RotateKey(ctx, s.Volume, k) })
	m[control.KeyCurrent] = func(ctx context.Context, c *control.Call) (any, error) {
		if c.File() == nil {
			return nil, errors.New("no key was given")
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
			return nil, fmt.Errorf("the volume is %s, not %s", id, a.Volume)
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

// withKeys reads a request's arguments, unless args is nil, and its keys, which
// are erased after it.
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

// WithKeys is a request's answer that gets the keys which come with it. They are
// erased afterwards, and errors about them get their code.
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

// Check answers key-check: each key must open the volume.
func (s *KeySet) Check(opens func(crypto.Credential) bool) error {
	if len(s.Old) == 0 {
		return errors.New("no key was given")
	}
	for _, c := range s.Old {
		if !opens(c) {
			return fmt.Errorf("%w: the key opens no key slot of the volume", volume.ErrWrongKey)
		}
	}
	return nil
}

// ListKeys answers key-list.
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

// AddKey answers key-add: keys.New gets a slot.
func AddKey(v *volume.Volume, keys *KeySet) (KeyChange, error) {
	if keys.New == nil {
		return KeyChange{}, errors.New("no new key was given")
	}
	slot, err := v.AddKey(*keys.New)
	return KeyChange{Slot: slot, Added: err == nil}, err
}

// RemoveKey answers key-remove.
func RemoveKey(v *volume.Volume, a KeyRemove) (KeyChange, error) {
	if err := v.RemoveKey(a.Slot, a.Last); err != nil {
		return KeyChange{}, err
	}
	return KeyChange{Slot: -1, Removed: []int{a.Slot}}, nil
}

// RotateKey answers key-rotate: keys.New takes the place of the one in keys.Old.
func RotateKey(ctx context.Context, v *volume.Volume, keys *KeySet) (KeyChange, error) {
	if keys.New == nil || len(keys.Old) != 1 {
		return KeyChange{}, errors.New("one old key and a new one are wanted")
	}
	c, err := v.RotateKey(ctx, keys.Old[0], *keys.New)
	return KeyChange{Slot: c.Slot, Added: c.Added, Removed: c.Removed}, err
}

// CurrentKey answers key-current: keys.New is what is to open the volume from now
// on, keys.Old what it may have been before. It may be repeated at any time, and
// changes nothing when all is as it should be. The old key goes when both copies
// of the header have been read back with the new one. A caller that has gone away
// while the volume was frozen changes nothing any more: its keys may be old by then.
func CurrentKey(ctx context.Context, v *volume.Volume, readOnly bool, keys *KeySet) (KeyChange, error) {
	none := KeyChange{Slot: -1}
	switch is := v.OpenedBy(keys.New.Credential); {
	case !is && (len(keys.Old) == 0 || !v.OpenedBy(keys.Old[0])): // also of a frozen volume, which a change would wait for
		return none, fmt.Errorf("the current key: %w", volume.ErrWrongKey)
	case len(keys.Old) == 0, readOnly:
		return none, nil
	case is && !v.OpenedBy(keys.Old[0]):
		return none, nil
	}
	c, err := RotateKey(ctx, v, keys)
	if errors.Is(err, volume.ErrKeyExists) { // both are the same
		return none, nil
	}
	return c, err
}

// RotateDataKey answers key-rotate-data.
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
