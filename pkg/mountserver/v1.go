package mountserver

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/doublecrypt"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

var (
	// ErrV1 refuses a device of format v1 if that format is not allowed.
	ErrV1 = errors.New("the device holds a volume of format v1 (doublecrypt); `sealvol convert` copies it into a volume of format v2")
	// ErrV1Option refuses options that format v1 does not have.
	ErrV1Option = errors.New("volumes of format v1 (doublecrypt) do not support anchors, snapshots and discard")
	// ErrV1Key refuses a key that is not the contents of a key file.
	ErrV1Key = errors.New("volumes of format v1 (doublecrypt) accept only a key file")
	// ErrV1Damaged means that the volume is too damaged to be opened for writing.
	ErrV1Damaged = errors.New("the volume of format v1 is damaged and cannot be opened for writing")
)

// v1Warning is logged once at each mount.
const v1Warning = "this volume has format v1 (doublecrypt), which does not protect against attackers who write to the device: " +
	"they can swap blocks and restore old states without being detected; `sealvol convert` copies it into a volume of format v2"

// V1 is an open volume of format v1 and its key.
type V1 struct {
	*doublecrypt.Volume

	keyMu sync.Mutex // erasing the key and comparing it
	key   *crypto.DoublecryptKey
}

// OpenV1 opens a volume of format v1. Its files belong to the user who runs this process. The
// caller closes the device.
func OpenV1(dev device.Device, cred crypto.Credential, opts doublecrypt.Options) (*V1, error) {
	key, err := crypto.DoublecryptKeyOf(cred)
	if err != nil {
		return nil, &marked{err, ErrV1Key}
	}
	opts.UID, opts.GID = uint32(os.Geteuid()), uint32(os.Getegid())
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	v, err := doublecrypt.Open(dev, key, opts)
	if err != nil {
		key.Erase()
		if !opts.ReadOnly && errors.Is(err, vfs.ErrCorrupt) && !errors.Is(err, crypto.ErrWrongKey) {
			err = &marked{err, ErrV1Damaged}
		}
		return nil, err
	}
	if n := v.Opened().DamageCount; n > 0 {
		opts.Log.Warn("the volume is damaged: only undamaged files can be read", "problems", n)
	}
	return &V1{Volume: v, key: key}, nil
}

// Close commits and erases the key.
func (v *V1) Close() error {
	err := v.Volume.Close()
	v.keyMu.Lock()
	defer v.keyMu.Unlock()
	v.key.Erase()
	return err
}

// openedBy tells whether a key opens the volume.
func (v *V1) openedBy(c crypto.Credential) bool {
	key, err := crypto.DoublecryptKeyOf(c)
	if err != nil {
		return false
	}
	defer key.Erase()
	v.keyMu.Lock()
	defer v.keyMu.Unlock()
	return v.key.Equal(key)
}

func (s *Server) openV1() error {
	o := &s.opts
	switch {
	case !o.FormatV1:
		return ErrV1
	case o.Anchor != nil || o.AnchorFile != "" || o.Snapshot != "" || o.Discard:
		return ErrV1Option
	}
	err := mounter.ErrNoKey
	for _, k := range o.Keys {
		var v *V1
		v, err = OpenV1(o.Device, k, doublecrypt.Options{ReadOnly: o.ReadOnly, Memory: int(o.MemoryBytes), CommitInterval: volume.CommitInterval, Log: s.log})
		if err == nil {
			s.v1, s.base, s.name = v, v, "doublecrypt"
			s.log.Warn(v1Warning)
			return nil
		}
		if !errors.Is(err, crypto.ErrWrongKey) {
			break
		}
	}
	return err
}

// v1Mux returns the requests for a volume of format v1: those that every mount has, and whether a
// key is the volume's.
func (s *Server) v1Mux() control.Mux {
	m := control.NewMux(&volumectl.Basic{FS: s.v1, Name: s.name, ReadOnly: s.opts.ReadOnly, Conditions: s.conditions, GrowBy: growV1, End: s.End})
	m[volumectl.KeyCheck] = volumectl.WithKeys(func(_ context.Context, _ *control.Call, k *volumectl.KeySet) (any, error) {
		return nil, k.Check(s.v1.openedBy)
	})
	return m
}

// growV1 refuses to grow, because the header of this format is written only once.
func growV1() (int64, error) {
	return 0, errors.New("volumes of format v1 (doublecrypt) cannot grow: convert it into a larger volume of format v2")
}
