package crypto

import "errors"

var (
	// ErrAuthentication reports bytes that do not open: damage, tampering, or
	// bytes that belong elsewhere. It never says which.
	ErrAuthentication = errors.New("authentication failed")

	// ErrWrongKey reports a credential that does not open a key slot, whose
	// contents may be fine.
	ErrWrongKey = errors.New("wrong key")

	// ErrErased reports the use of keys after Erase.
	ErrErased = errors.New("the key was erased")

	// ErrUnsupportedSuite reports a suite that this version does not know.
	ErrUnsupportedSuite = errors.New("unsupported cipher suite")
)

// errBuffer reports a caller's buffer of the wrong size: a bug of ours, not of
// the device.
var errBuffer = errors.New("crypto: buffer of the wrong size")
