package csi

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/sealvol/sealvol/pkg/mounter"
)

// Fields of the stage and publish secret; see docs/csi.md.
const (
	secretKEK      = "kek"
	secretPrevious = "kek-previous"
)

// keysOf reads the keys of a secret; found is false if the secret has none.
func keysOf(secrets map[string]string) (keys mounter.Keys, found bool, err error) {
	current, ok := secrets[secretKEK]
	if !ok {
		return mounter.Keys{}, false, nil
	}
	kek, err := parseKey(secretKEK, current)
	if err != nil {
		return mounter.Keys{}, true, err
	}
	var previous []byte
	if p, ok := secrets[secretPrevious]; ok && p != "" {
		if previous, err = parseKey(secretPrevious, p); err != nil {
			clear(kek)
			return mounter.Keys{}, true, err
		}
	}
	keys, err = mounter.NewKeys(kek, previous)
	return keys, true, err
}

// parseKey reads 32 bytes, or 64 hexadecimal digits with an optional line end.
func parseKey(name, s string) ([]byte, error) {
	if len(s) == mounter.KeyBytes {
		return []byte(s), nil
	}
	b, err := hex.DecodeString(strings.TrimSuffix(strings.TrimSuffix(s, "\n"), "\r"))
	if err != nil || len(b) != mounter.KeyBytes {
		clear(b)
		return nil, fmt.Errorf("%w: %s must be %d bytes or %d hexadecimal digits", errSecrets, name, mounter.KeyBytes, 2*mounter.KeyBytes)
	}
	return b, nil
}
