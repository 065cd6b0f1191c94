package format

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"
)

// ErrFormat is about bytes that are not of the format they should be.
var ErrFormat = errors.New("malformed")

// Reader reads one encoded value from front to end. After the first error all
// it returns is zero.
type Reader struct {
	what string
	b    []byte
	err  error
}

// NewReader reads b, which should be a value of this kind, after its magic word.
func NewReader(what, magic string, b []byte) *Reader {
	r := &Reader{what: what, b: b}
	if got := r.Bytes(len(magic)); r.err == nil && string(got) != magic {
		r.Fail("it begins with %q, not %q", got, magic)
	}
	return r
}

// Fail notes the first thing that is wrong.
func (r *Reader) Fail(text string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w %s: %s", ErrFormat, r.what, fmt.Sprintf(text, args...))
	}
}

// Err returns what was wrong so far.
func (r *Reader) Err() error { return r.err }

// End returns what was wrong, or that something follows.
func (r *Reader) End() error {
	if r.err == nil && len(r.b) != 0 {
		r.Fail("%d bytes too many", len(r.b))
	}
	return r.err
}

// Rest returns all that follows.
func (r *Reader) Rest() []byte { return r.Bytes(len(r.b)) }

// Left returns how much follows.
func (r *Reader) Left() int { return len(r.b) }

// Bytes returns the next n bytes, not a copy.
func (r *Reader) Bytes(n int) []byte {
	if r.err == nil && (n < 0 || n > len(r.b)) {
		r.Fail("it ends %d bytes too early", n-len(r.b))
	}
	if r.err != nil {
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

// U8 reads an integer.
func (r *Reader) U8() uint8 {
	if b := r.Bytes(1); b != nil {
		return b[0]
	}
	return 0
}

// U16 reads an integer.
func (r *Reader) U16() uint16 {
	if b := r.Bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

// U32 reads an integer.
func (r *Reader) U32() uint32 {
	if b := r.Bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// U64 reads an integer.
func (r *Reader) U64() uint64 {
	if b := r.Bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// Zeros reads n reserved bytes.
func (r *Reader) Zeros(n int) {
	for _, c := range r.Bytes(n) {
		if c != 0 {
			r.Fail("a reserved byte is %#x", c)
		}
	}
}

// ID reads an identity.
func (r *Reader) ID() (id ID) {
	copy(id[:], r.Bytes(len(id)))
	return id
}

// Sum reads a hash.
func (r *Reader) Sum() (s Sum) {
	copy(s[:], r.Bytes(len(s)))
	return s
}

// Count reads nothing: it checks that n items of at least size bytes can follow,
// before anybody makes room for them.
func (r *Reader) Count(n, limit, size int) int {
	if r.err == nil && (n < 0 || n > limit || n > len(r.b)/size) {
		r.Fail("it says that %d items of %d bytes follow", n, size)
	}
	if r.err != nil {
		return 0
	}
	return n
}

// Text reads a string of at most limit bytes.
func (r *Reader) Text(limit int) string {
	n := int(r.U16())
	if n > limit {
		r.Fail("a text of %d bytes", n)
	}
	b := r.Bytes(n)
	if !utf8.Valid(b) {
		r.Fail("a text is not UTF-8")
		return ""
	}
	return string(b)
}

// AppendText appends what Text reads.
func AppendText(b []byte, s string) []byte {
	return append(le16(b, uint16(len(s))), s...)
}

// CheckText checks a string before it is encoded.
func CheckText(what, s string, limit int) error {
	if len(s) > limit || !utf8.ValidString(s) {
		return fmt.Errorf("%w %s: a text of %d bytes; at most %d of UTF-8", ErrFormat, what, len(s), limit)
	}
	return nil
}

var (
	le16 = binary.LittleEndian.AppendUint16
	le32 = binary.LittleEndian.AppendUint32
	le64 = binary.LittleEndian.AppendUint64
)
