package mounter

import (
	"errors"
	"fmt"
	"os"
)

// KeyBytes is the length of a key-encryption key.
const KeyBytes = 32

// Keys open a volume: the current key-encryption key and, until a rewrap is confirmed, the previous
// one. Printing them shows no key: the type has no fields that a formatter shows.
type Keys struct {
	kek, previous []byte
}

// NewKeys takes ownership (without copying) of a current and a previous key of KeyBytes each.
// previous may be nil.
func NewKeys(kek, previous []byte) (Keys, error) {
	if len(kek) != KeyBytes || previous != nil && len(previous) != KeyBytes {
		return Keys{}, fmt.Errorf("%w: a key must have %d bytes", ErrNoKey, KeyBytes)
	}
	return Keys{kek, previous}, nil
}

// Empty tells whether there is no key.
func (k Keys) Empty() bool { return len(k.kek) == 0 }

// KEK returns the current key; the memory still belongs to the Keys.
func (k Keys) KEK() []byte { return k.kek }

// Previous returns the previous key, or nil.
func (k Keys) Previous() []byte { return k.previous }

// Clear erases the keys.
func (k Keys) Clear() {
	clear(k.kek)
	clear(k.previous)
}

// String keeps keys out of every print.
func (k Keys) String() string { return "[keys]" }

// GoString keeps keys out of %#v.
func (k Keys) GoString() string { return "[keys]" }

// raw returns the content of the key pipe.
func (k Keys) raw() []byte {
	return append(append(make([]byte, 0, 2*KeyBytes), k.kek...), k.previous...)
}

// pipe returns a pipe that yields raw and then ends. So few bytes never wait for a reader.
func (k Keys) pipe() (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	raw := k.raw()
	defer clear(raw)
	_, err = w.Write(raw)
	if err = errors.Join(err, w.Close()); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func keysFromRaw(b []byte) (Keys, error) {
	switch len(b) {
	case 0:
		return Keys{}, nil
	case KeyBytes:
		return Keys{kek: b}, nil
	case 2 * KeyBytes:
		return Keys{kek: b[:KeyBytes], previous: b[KeyBytes:]}, nil
	}
	return Keys{}, fmt.Errorf("%w: unexpected length of keys: %d bytes", ErrInvalid, len(b))
}
