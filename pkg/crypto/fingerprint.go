package crypto

import "encoding/hex"

// fingerprintBytes is long enough that two keys never have the same fingerprint, and that nobody
// can find another key for a fingerprint.
const fingerprintBytes = 16

// Fingerprint returns a public identifier of the key: X(k, "fingerprint", "") of the key schedule
// in the threat model, truncated to 16 bytes, in hexadecimal. No other key is derived with this
// label, so it can only confirm a guess of the whole key.
func (k *Key) Fingerprint() string {
	var b [KeyBytes]byte
	expand(b[:], k.Bytes(), "fingerprint")
	return hex.EncodeToString(b[:fingerprintBytes])
}
