package handover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/mounter/pacing"
	"github.com/sealvol/sealvol/pkg/volume/pinned"
)

// Volume is what a mount server gives a worker: enough to read two local snapshots of the volume.
type Volume struct {
	Keys   *pinned.Keys
	Source pinned.StateRef
	Base   *pinned.StateRef // nil: there is none
}

// Erase overwrites all keys. It may be called again, and on nil.
func (v *Volume) Erase() {
	if v != nil && v.Keys != nil {
		v.Keys.Erase()
		v.Keys.Epochs = nil
	}
}

// Write sends v. The caller erases it.
func (v *Volume) Write(w io.Writer) error {
	if err := writeRecord(w, kindIdentity, 0, appendIdentity(nil, &v.Keys.Identity)); err != nil {
		return err
	}
	for _, e := range v.Keys.Epochs {
		if err := writeRecord(w, kindVMK, e.Epoch, e.VMK.Bytes()); err != nil {
			return err
		}
	}
	for i, s := range []*pinned.StateRef{&v.Source, v.Base} {
		if s == nil {
			continue
		}
		b := s.Append(nil)
		if len(b) > maxState {
			return fmt.Errorf("the reference to local snapshot %s is too long", s.Name)
		}
		if err := writeRecord(w, kindState, uint32(i), b); err != nil {
			return err
		}
	}
	return writeRecord(w, kindEnd, 0, nil)
}

// ReadVolume reads what Volume.Write sends. The caller erases the result.
func ReadVolume(r io.Reader) (v *Volume, err error) {
	v = &Volume{Keys: &pinned.Keys{}}
	defer func() {
		if err != nil {
			v.Erase()
			v, err = nil, cut(err, "the mount server")
		}
	}()
	for range maxRecords {
		h, err := readHead(r)
		if err != nil {
			return v, err
		}
		if h.kind == kindEnd {
			return v, v.check()
		}
		if err := v.add(r, h); err != nil {
			return v, err
		}
	}
	return v, fmt.Errorf("%w: too many records", ErrFormat)
}

func (v *Volume) add(r io.Reader, h record) error {
	switch {
	case h.kind == kindVMK:
		k, err := readKey(r, h)
		if err != nil {
			return err
		}
		v.Keys.Epochs = append(v.Keys.Epochs, crypto.EpochKey{Epoch: h.epoch, VMK: k})
		return nil
	case h.kind == kindIdentity && h.size == identityBytes:
		b, err := readBytes(r, h)
		v.Keys.Identity = decodeIdentity(b)
		return err
	case h.kind == kindState && h.epoch <= 1:
		b, err := readBytes(r, h)
		if err != nil {
			return err
		}
		s, err := pinned.DecodeStateRef(b)
		if err != nil {
			return err
		}
		if h.epoch == 1 {
			v.Base = &s
		} else {
			v.Source = s
		}
		return nil
	}
	return fmt.Errorf("%w: a record of kind %d", ErrFormat, h.kind)
}

func (v *Volume) check() error {
	e := v.Keys.Epochs
	if len(e) == 0 || v.Source.Name == "" || v.Keys.Identity == (pinned.Identity{}) {
		return errors.New("the mount server sent no key or no state")
	}
	for i := 1; i < len(e); i++ {
		if e[i].Epoch <= e[i-1].Epoch {
			return fmt.Errorf("%w: the epochs do not ascend", ErrFormat)
		}
	}
	return nil
}

// identityBytes is the length of ID ‖ instance ‖ hash seed ‖ bytes of the device u64 ‖ suite u8.
const identityBytes = 3*16 + 8 + 1

func appendIdentity(b []byte, i *pinned.Identity) []byte {
	b = append(append(append(b, i.ID[:]...), i.Instance[:]...), i.HashSeed[:]...)
	return append(binary.LittleEndian.AppendUint64(b, uint64(i.DeviceBytes)), byte(i.Suite))
}

func decodeIdentity(b []byte) pinned.Identity {
	return pinned.Identity{ID: crypto.UUID(b), Instance: crypto.UUID(b[16:]), HashSeed: [16]byte(b[32:]), DeviceBytes: int64(binary.LittleEndian.Uint64(b[48:])), Suite: crypto.Suite(b[56])}
}

// WriteLoad sends how busy the volume is, after the keys.
func WriteLoad(w io.Writer, l pacing.Load) error {
	var b [headBytes + loadBytes]byte
	b[0] = byte(kindLoad)
	binary.LittleEndian.PutUint16(b[2:], loadBytes)
	binary.LittleEndian.PutUint32(b[headBytes:], uint32(l.Queue))
	for i, k := range l.Kinds {
		binary.LittleEndian.PutUint64(b[headBytes+4+16*i:], k.Count)
		binary.LittleEndian.PutUint64(b[headBytes+12+16*i:], k.Micros)
	}
	_, err := w.Write(b[:]) // at once, so that a reader never gets a part
	return err
}

// ReadLoad waits for the next load. io.EOF: the mount server has ended.
func ReadLoad(r io.Reader) (l pacing.Load, err error) {
	h, err := readHead(r)
	if err != nil {
		return l, err
	}
	if h.kind != kindLoad || h.size != loadBytes {
		return l, fmt.Errorf("%w: a record of kind %d where the load was expected", ErrFormat, h.kind)
	}
	b, err := readBytes(r, h)
	if err != nil {
		return l, err
	}
	l.Queue = int(binary.LittleEndian.Uint32(b))
	for i := range l.Kinds {
		l.Kinds[i] = pacing.Requests{Count: binary.LittleEndian.Uint64(b[4+16*i:]), Micros: binary.LittleEndian.Uint64(b[12+16*i:])}
	}
	return l, nil
}
