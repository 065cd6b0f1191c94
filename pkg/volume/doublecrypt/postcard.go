package doublecrypt

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"
)

// The serialisation is postcard 1.x, as far as the format uses it. Integers are varints with seven
// bits per byte, lowest first. Arrays of fixed length have no prefix. Byte strings and lists begin
// with their length.

var (
	errShort    = errors.New("the input ends early")
	errVarint   = errors.New("an integer is too large for its type")
	errNotUTF8  = errors.New("a string is not UTF-8")
	errVariant  = errors.New("unknown variant")
	errTooMany  = errors.New("more elements than the input can hold")
	errDisorder = errors.New("elements are not in order")
)

func appendVarint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

// varintLen returns the length of v's shortest encoding, 1 to 10 bytes.
func varintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

func appendString(b []byte, s string) []byte { return append(appendVarint(b, uint64(len(s))), s...) }

// decoder decodes postcard. After the first error, all reads return zeros. Byte strings are slices
// of the input.
type decoder struct {
	in  []byte
	err error
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err, d.in = err, nil
	}
}

// varint accepts encodings that are longer than necessary, like the reference implementation. If
// the encoding has the maximum number of bytes of the type, the last byte is at most top.
func (d *decoder) varint(maxBytes int, top byte) uint64 {
	var v uint64
	for i := range maxBytes {
		if i >= len(d.in) {
			d.fail(errShort)
			return 0
		}
		c := d.in[i]
		if i == maxBytes-1 && c > top {
			break
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.in = d.in[i+1:]
			return v
		}
	}
	d.fail(errVarint)
	return 0
}

func (d *decoder) u64() uint64 { return d.varint(10, 0x01) }
func (d *decoder) u32() uint32 { return uint32(d.varint(5, 0x0f)) }

// variant reads the variant of an enum with n variants.
func (d *decoder) variant(n uint32) uint32 {
	v := d.u32()
	if d.err == nil && v >= n {
		d.fail(errVariant)
		return 0
	}
	return v
}

// array reads n bytes without a length prefix. It returns nil after an error.
func (d *decoder) array(n int) []byte {
	if d.err == nil && len(d.in) < n {
		d.fail(errShort)
	}
	if d.err != nil {
		return nil
	}
	b := d.in[:n]
	d.in = d.in[n:]
	return b
}

func (d *decoder) bytes() []byte {
	n := d.u64()
	if d.err == nil && n > uint64(len(d.in)) {
		d.fail(errShort)
	}
	if d.err != nil {
		return nil
	}
	return d.array(int(n))
}

func (d *decoder) string() string {
	b := d.bytes()
	if !utf8.Valid(b) {
		d.fail(errNotUTF8)
		return ""
	}
	return string(b)
}

// count reads the length of a list whose elements have at least min bytes each.
func (d *decoder) count(min int) int {
	n := d.u64()
	if d.err == nil && n > uint64(len(d.in)/min) {
		d.fail(errTooMany)
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}
