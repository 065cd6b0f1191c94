package crypto

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// Suite names the AEAD of a volume. It is fixed at format time and is part of
// every key derivation and of all associated data.
type Suite uint8

const (
	// SuiteXChaCha20Poly1305 is the default.
	SuiteXChaCha20Poly1305 Suite = 1
	// SuiteXAES256GCM is XAES-256-GCM (c2sp.org/XAES-256-GCM). It uses only approved primitives,
	// but has no validation.
	SuiteXAES256GCM Suite = 2
)

// String returns the name that ParseSuite accepts.
func (s Suite) String() string {
	switch s {
	case SuiteXChaCha20Poly1305:
		return "xchacha20poly1305"
	case SuiteXAES256GCM:
		return "xaes256gcm"
	}
	return fmt.Sprintf("suite(%d)", uint8(s))
}

// ParseSuite returns the suite with the given name.
func ParseSuite(name string) (Suite, error) {
	for _, s := range []Suite{SuiteXChaCha20Poly1305, SuiteXAES256GCM} {
		if name == s.String() {
			return s, nil
		}
	}
	return 0, fmt.Errorf("%w %q: use xchacha20poly1305 or xaes256gcm", ErrUnsupportedSuite, name)
}

// Validate returns ErrUnsupportedSuite for an unknown suite.
func (s Suite) Validate() error {
	if s != SuiteXChaCha20Poly1305 && s != SuiteXAES256GCM {
		return fmt.Errorf("%w %d", ErrUnsupportedSuite, uint8(s))
	}
	return nil
}

// UUID is a volume's or a snapshot's identity, in RFC 9562 byte order.
type UUID [16]byte

// NewUUID returns a random (version 4) UUID.
func NewUUID() UUID {
	var u UUID
	rand.Read(u[:])
	u[6] = u[6]&0x0f | 0x40 // RFC 9562 section 5.4
	u[8] = u[8]&0x3f | 0x80
	return u
}

// String returns the form of RFC 9562, in lower case.
func (u UUID) String() string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// ParseUUID parses the result of String, in upper or lower case.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return u, fmt.Errorf("%.40q is not a UUID", s)
	}
	if _, err := hex.Decode(u[:], []byte(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:])); err != nil {
		return UUID{}, fmt.Errorf("%q is not a UUID", s)
	}
	return u, nil
}

// Tag is the authentication tag of one sealed message.
type Tag [16]byte
