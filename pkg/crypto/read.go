package crypto

import (
	"errors"
	"fmt"
	"io"
)

// MaxReadSecret is the maximum number of bytes that ReadSecret reads.
const MaxReadSecret = pageBytes - 16

// errTooLong reports a secret that is longer than expected.
var errTooLong = errors.New("the secret is too long")

// ReadSecret reads r to its end, at most max bytes, into locked memory, and calls use with the
// bytes. It erases them before it returns. r must not buffer, because the buffer would not be
// erased.
func ReadSecret(r io.Reader, max int, use func(b []byte) error) error {
	if max > MaxReadSecret {
		return fmt.Errorf("secret of up to %d bytes does not fit", max)
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
