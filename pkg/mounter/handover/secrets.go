package handover

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// Tenant is the tenant secret of an epoch.
type Tenant struct {
	Epoch  uint8
	Secret *crypto.Key
}

// Secrets are what a caller gives a worker: the tenant's secret and the keys for the slots of the
// stored snapshot.
type Secrets struct {
	// Tenants are the tenant secrets, ascending; the last is the present one. Earlier ones open
	// what the base shares with snapshots of their time.
	Tenants []Tenant
	// KEKs are key-encryption keys that get a slot, and open those of the base.
	KEKs []*crypto.Key
	// Recipients are the public halves of recovery keys that get a slot.
	Recipients []*crypto.RecoveryRecipient
}

// Erase overwrites all keys. It may be called again, and on nil.
func (s *Secrets) Erase() {
	if s == nil {
		return
	}
	for _, t := range s.Tenants {
		t.Secret.Erase()
	}
	for _, k := range s.KEKs {
		k.Erase()
	}
	s.Tenants, s.KEKs = nil, nil
}

// Pipe returns a pipe that yields the secrets and then ends. So few bytes never wait for a reader.
// The caller closes it, and keeps the secrets.
func (s *Secrets) Pipe() (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	if err = errors.Join(s.write(w), w.Close()); err != nil {
		r.Close()
		return nil, fmt.Errorf("write the secrets of a stored snapshot: %w", err)
	}
	return r, nil
}

func (s *Secrets) write(w io.Writer) error {
	if len(s.Tenants)+len(s.KEKs)+len(s.Recipients) >= maxRecords {
		return errors.New("too many keys")
	}
	for _, t := range s.Tenants {
		if err := writeRecord(w, kindTenant, uint32(t.Epoch), t.Secret.Bytes()); err != nil {
			return err
		}
	}
	for _, k := range s.KEKs {
		if err := writeRecord(w, kindKEK, 0, k.Bytes()); err != nil {
			return err
		}
	}
	for _, r := range s.Recipients {
		text := []byte(r.String())
		if len(text) > maxText {
			return errors.New("the public half of a recovery key is too long")
		}
		if err := writeRecord(w, kindRecipient, 0, text); err != nil {
			return err
		}
	}
	return writeRecord(w, kindEnd, 0, nil)
}

// ReadSecrets reads what Secrets.Pipe yields. The caller erases the result.
func ReadSecrets(r io.Reader) (s *Secrets, err error) {
	s = &Secrets{}
	defer func() {
		if err != nil {
			s.Erase()
			s, err = nil, cut(err, "the caller")
		}
	}()
	for range maxRecords {
		h, err := readHead(r)
		if err != nil {
			return s, err
		}
		if h.kind == kindEnd {
			return s, s.check()
		}
		if err := s.add(r, h); err != nil {
			return s, err
		}
	}
	return s, fmt.Errorf("%w: too many records", ErrFormat)
}

func (s *Secrets) add(r io.Reader, h record) error {
	switch {
	case h.kind == kindTenant && h.epoch <= 255:
		k, err := readKey(r, h)
		if err != nil {
			return err
		}
		s.Tenants = append(s.Tenants, Tenant{uint8(h.epoch), k})
		return nil
	case h.kind == kindKEK:
		k, err := readKey(r, h)
		if err != nil {
			return err
		}
		s.KEKs = append(s.KEKs, k)
		return nil
	case h.kind == kindRecipient:
		b, err := readBytes(r, h)
		if err != nil {
			return err
		}
		k, err := crypto.ParseRecoveryRecipient(string(b))
		if err != nil {
			return err
		}
		s.Recipients = append(s.Recipients, k)
		return nil
	}
	return fmt.Errorf("%w: a record of kind %d", ErrFormat, h.kind)
}

// check makes sure that a snapshot can be written and opened.
func (s *Secrets) check() error {
	if len(s.Tenants) == 0 {
		return errors.New("no tenant secret was given")
	}
	if len(s.KEKs)+len(s.Recipients) == 0 {
		return errors.New("neither a key nor a recovery key was given: nobody could open the snapshot")
	}
	for i := 1; i < len(s.Tenants); i++ {
		if s.Tenants[i].Epoch <= s.Tenants[i-1].Epoch {
			return fmt.Errorf("%w: the epochs of the tenant secrets do not ascend", ErrFormat)
		}
	}
	return nil
}
