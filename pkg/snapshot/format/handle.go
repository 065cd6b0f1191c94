package format

import (
	"encoding/base32"
	"strings"
)

// Handle names a snapshot in any store: for people, resources and other clusters.
type Handle struct {
	Store, S ID
	// Sealed is the hash of the manifest's sealed part: no other manifest of S
	// passes. A short handle, given before there is one, has none.
	Sealed *Sum
}

const handlePrefix = "ss1."

var handleEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// String returns 107 characters, 56 without Sealed.
func (h Handle) String() string {
	b := append(append(make([]byte, 0, 64), h.Store[:]...), h.S[:]...)
	if h.Sealed != nil {
		b = append(b, h.Sealed[:]...)
	}
	return handlePrefix + handleEncoding.EncodeToString(b)
}

// ParseHandle reads what String wrote.
func ParseHandle(s string) (h Handle, err error) {
	r := NewReader("handle", handlePrefix, []byte(s))
	b, err := handleEncoding.DecodeString(string(r.Rest()))
	if err != nil || len(b) != 32 && len(b) != 64 {
		r.Fail("%.120q has 56 or 107 characters, and begins with %s", s, handlePrefix)
		return Handle{}, r.Err()
	}
	h = Handle{Store: ID(b[:16]), S: ID(b[16:32])}
	if len(b) == 64 {
		sum := Sum(b[32:])
		h.Sealed = &sum
	}
	if h.String() != s || strings.TrimSpace(s) != s { // spare bits of the last character
		r.Fail("%.120q is not as it was written", s)
		return Handle{}, r.Err()
	}
	return h, nil
}
