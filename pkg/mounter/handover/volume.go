package handover

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// State is a local snapshot, as a mount server hands it to a worker.
type State struct {
	Name string
	Ref  []byte // where it is on the device
}

// Volume is what a mount server gives a worker: enough to read two local snapshots of the volume.
type Volume struct {
	Epochs []crypto.EpochKey // ascending
	Source State
	Base   *State // nil: there is none
}

// Erase overwrites all keys. It may be called again, and on nil.
func (v *Volume) Erase() {
	if v == nil {
		return
	}
	crypto.EraseEpochs(v.Epochs)
	v.Epochs = nil
}

// Write sends v. The caller erases it.
func (v *Volume) Write(w io.Writer) error {
	for _, e := range v.Epochs {
		if err := writeRecord(w, kindVMK, e.Epoch, e.VMK.Bytes()); err != nil {
			return err
		}
	}
	states := []*State{&v.Source, v.Base}
	for i, s := range states {
		if s == nil {
			continue
		}
		b := append(append([]byte(s.Name), 0), s.Ref...)
		if len(b) > maxState {
			return fmt.Errorf("the reference of local snapshot %s is too long", s.Name)
		}
		if err := writeRecord(w, kindState, uint32(i), b); err != nil {
			return err
		}
	}
	return writeRecord(w, kindEnd, 0, nil)
}

// ReadVolume reads what Volume.Write sends. The caller erases the result.
func ReadVolume(r io.Reader) (v *Volume, err error) {
	v = &Volume{}
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
		v.Epochs = append(v.Epochs, crypto.EpochKey{Epoch: h.epoch, VMK: k})
		return nil
	case h.kind == kindState && h.epoch <= 1:
		b, err := readBytes(r, h)
		if err != nil {
			return err
		}
		name, ref, ok := bytes.Cut(b, []byte{0})
		if !ok {
			return fmt.Errorf("%w: a state without a name", ErrFormat)
		}
		s := State{string(name), ref}
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
	if len(v.Epochs) == 0 || v.Source.Name == "" {
		return errors.New("the mount server sent no key or no state")
	}
	for i := 1; i < len(v.Epochs); i++ {
		if v.Epochs[i].Epoch <= v.Epochs[i-1].Epoch {
			return fmt.Errorf("%w: the epochs do not ascend", ErrFormat)
		}
	}
	return nil
}

// Load says how busy a volume was in the last second.
type Load struct {
	Queue     int    // requests in progress
	Requests  uint64 // answered
	P99Micros uint64
}

// WriteLoad sends how busy the volume is, after the keys.
func WriteLoad(w io.Writer, l Load) error {
	var b [headBytes + loadBytes]byte
	b[0] = byte(kindLoad)
	binary.LittleEndian.PutUint16(b[2:], loadBytes)
	binary.LittleEndian.PutUint32(b[headBytes:], uint32(l.Queue))
	binary.LittleEndian.PutUint64(b[headBytes+4:], l.Requests)
	binary.LittleEndian.PutUint64(b[headBytes+12:], l.P99Micros)
	_, err := w.Write(b[:]) // at once, so that a reader never gets a part
	return err
}

// ReadLoad waits for the next load. io.EOF: the mount server has ended.
func ReadLoad(r io.Reader) (l Load, err error) {
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
	return Load{int(binary.LittleEndian.Uint32(b)), binary.LittleEndian.Uint64(b[4:]), binary.LittleEndian.Uint64(b[12:])}, nil
}
