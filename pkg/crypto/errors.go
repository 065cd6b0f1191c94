package crypto

import "errors"

var (
	// ErrAuthentication reports bytes that do not open. They were damaged, manipulated, or moved
	// from another place. It never says which.
	ErrAuthentication = errors.New("authentication failed")

	// ErrWrongKey reports a credential that does not open a key slot. The slot may be intact.
	ErrWrongKey = errors.New("wrong key")

	// ErrErased reports the use of keys after Erase.
	ErrErased = errors.New("the key was erased")

	// ErrUnsupportedSuite reports a suite that this version does not know.
	ErrUnsupportedSuite = errors.New("unsupported cipher suite")
)

// errBuffer reports a buffer of the wrong size. It is a bug of the caller, not damage on the
// device.
var errBuffer = errors.New("crypto: buffer of the wrong size")
