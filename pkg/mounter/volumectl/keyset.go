package volumectl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume"
)

// The keys of a request come in a file, preferably a sealed memfd. It is a list of records:
//
//	role u8 ‖ kind u8 ‖ length u16 ‖ bytes
//
// with at most MaxKeys records. Each is read into locked memory.

// KeyRole says what a key of a request is used for.
type KeyRole uint8

// The roles of keys.
const (
	KeyOld KeyRole = 1 // opens the volume now
	KeyNew KeyRole = 2 // must open it afterwards
)

// KeyKind says what the bytes of a key are.
type KeyKind uint8

// The kinds of keys.
const (
	KindSecret     KeyKind = 1 // the contents of a key file
	KindRecovery   KeyKind = 3 // the secret half of a recovery key, as text
	KindPassphrase KeyKind = 4 // a passphrase, byte for byte
	KindRecipient  KeyKind = 5 // the public half of a recovery key, as text
)

// MaxKeys is how many keys may come with a request.
const MaxKeys = crypto.Slots + 1

// maxKeyBytes bounds one key: the public half of a recovery key is the longest.
const maxKeyBytes = 4000

// KeySet is the keys that came with a request.
type KeySet struct {
	Old []crypto.Credential
	New *volume.Key // nil if there is none
}

// Erase overwrites all keys. It may be called on nil.
func (s *KeySet) Erase() {
	if s == nil {
		return
	}
	for _, c := range s.Old {
		c.Erase()
	}
	if s.New != nil {
		if s.New.Credential != nil {
			s.New.Credential.Erase()
		}
	}
}

// KeyFile is a file of keys in memory that other processes cannot open by name. The caller closes
// it.
type KeyFile struct {
	*os.File
	Lines bool // a passphrase that was added has more than one line
}

// NewKeyFile creates an empty KeyFile.
func NewKeyFile() (*KeyFile, error) {
	fd, err := unix.MemfdCreate("sealvol-keys", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("create a memory file for keys: %w", err)
	}
	return &KeyFile{File: os.NewFile(uintptr(fd), "keys")}, nil
}

// Add appends a key, which it reads from r, the contents of a key file. A new passphrase has one
// line.
func (f *KeyFile) Add(role KeyRole, kind KeyKind, r io.Reader) error {
	return crypto.ReadSecret(r, maxKeyBytes, func(b []byte) error {
		if kind == KindPassphrase {
			var lines bool
			if b, lines = crypto.PassphraseLine(b); lines && role == KeyNew {
				return crypto.ErrPassphraseLines
			}
			f.Lines = f.Lines || lines
		}
		head := []byte{byte(role), byte(kind), 0, 0}
		binary.LittleEndian.PutUint16(head[2:], uint16(len(b)))
		if _, err := f.Write(head); err != nil {
			return err
		}
		_, err := f.Write(b)
		return err
	})
}

// Seal makes the file immutable and rewinds it.
func (f *KeyFile) Seal() error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_WRITE|unix.F_SEAL_SEAL)
	return err
}

// ReadKeys reads the contents of a KeyFile. Its errors never contain them. The caller erases the
// keys.
func ReadKeys(r io.Reader) (s *KeySet, err error) {
	s = &KeySet{}
	defer func() {
		if err != nil {
			s.Erase()
			s = nil
		}
	}()
	for n := 0; ; n++ {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); errors.Is(err, io.EOF) {
			return s, nil
		} else if err != nil {
			return s, fmt.Errorf("read the keys: %w", err)
		}
		size := int(binary.LittleEndian.Uint16(head[2:]))
		if n >= MaxKeys || size > maxKeyBytes {
			return s, errors.New("read the keys: too many keys, or a key is too long")
		}
		err := crypto.ReadSecret(io.LimitReader(r, int64(size)), maxKeyBytes, func(b []byte) error {
			if len(b) != size {
				return io.ErrUnexpectedEOF
			}
			return s.add(KeyRole(head[0]), KeyKind(head[1]), b)
		})
		if err != nil {
			return s, fmt.Errorf("read the keys: %w", err)
		}
	}
}

func (s *KeySet) add(role KeyRole, kind KeyKind, b []byte) error {
	k, err := parseKey(kind, b)
	if err != nil {
		return err
	}
	switch {
	case role == KeyOld && k.Credential != nil:
		s.Old = append(s.Old, k.Credential)
		return nil
	case role == KeyNew && s.New == nil:
		s.New = &k
		return nil
	}
	if k.Credential != nil {
		k.Credential.Erase()
	}
	return errors.New("unexpected key: the request does not use a key of this role and kind")
}

func parseKey(kind KeyKind, b []byte) (k volume.Key, err error) {
	switch kind {
	case KindSecret:
		key, err := crypto.ParseKeyFile(b)
		if err != nil {
			return k, err
		}
		c := crypto.SecretCredential(key)
		return volume.Key{Recipient: c, Credential: c}, nil
	case KindPassphrase:
		c, err := crypto.PassphraseCredential(b)
		if err != nil {
			return k, err
		}
		return volume.Key{Recipient: c, Credential: c}, nil
	case KindRecovery:
		c, err := crypto.ParseRecoverySecret(b)
		if err != nil {
			return k, err
		}
		r, err := c.Recipient()
		if err != nil {
			c.Erase()
			return k, err
		}
		return volume.Key{Recipient: r, Credential: c}, nil
	case KindRecipient:
		r, err := crypto.ParseRecoveryRecipient(string(b))
		if err != nil {
			return k, err
		}
		return volume.Key{Recipient: r}, nil
	}
	return k, fmt.Errorf("unknown kind of key: %d", kind)
}

// readKEKs reads the keys of key-current, which have the format of a mounter's key pipe: 32 bytes
// are the current key, 32 more the previous one.
func readKEKs(r io.Reader) (s *KeySet, err error) {
	s = &KeySet{}
	err = crypto.ReadSecret(r, 2*crypto.KeyBytes, func(b []byte) error {
		if len(b) != crypto.KeyBytes && len(b) != 2*crypto.KeyBytes {
			return fmt.Errorf("unexpected length of keys: %d bytes", len(b))
		}
		for role := KeyNew; len(b) > 0; role, b = KeyOld, b[crypto.KeyBytes:] {
			key, err := crypto.NewKey(b[:crypto.KeyBytes])
			if err != nil {
				return err
			}
			if c := crypto.SecretCredential(key); role == KeyNew {
				s.New = &volume.Key{Recipient: c, Credential: c}
			} else {
				s.Old = append(s.Old, c)
			}
		}
		return nil
	})
	if err != nil {
		s.Erase()
		return nil, fmt.Errorf("read the keys: %w", err)
	}
	return s, nil
}
