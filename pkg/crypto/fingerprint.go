package crypto

import "encoding/hex"

// fingerprintBytes is long enough that no two keys have the same, and nobody finds a second key to one.
const fingerprintBytes = 16

// Fingerprint tells this key from others and may be seen by anybody: X(k, "fingerprint", "") of the threat model's schedule, cut to 16
// bytes, in hexadecimal. No other key is derived with this label, so that it confirms a guess of the whole key and of nothing else.
func (k *Key) Fingerprint() string {
	var b [KeyBytes]byte
	expand(b[:], k.Bytes(), "fingerprint")
	return hex.EncodeToString(b[:fingerprintBytes])
}
