package crypto

import (
	"errors"
	"fmt"
	"io"
)

// MaxReadSecret is the most that ReadSecret reads, in bytes.
const MaxReadSecret = pageBytes - 16

// errTooLong reports a secret that is longer than expected.
var errTooLong = errors.New("it is too long")

// ReadSecret reads r to its end, at most max bytes, into locked memory and calls
// use with them; they are erased when it returns. r is read directly: it must not
// buffer.
func ReadSecret(r io.Reader, max int, use func(b []byte) error) error {
	if max > MaxReadSecret {
		return fmt.Errorf("secrets of up to %d bytes", max)
	}
	mem, err := newRegion()
	if err != nil {
		return err
	}
	defer mem.erase()
	b := mem.take(max + 1).bytes()
	n, err := io.ReadFull(r, b)
	switch {
	case err == nil:
		return errTooLong
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return err
	}
	return use(b[:n])
}
