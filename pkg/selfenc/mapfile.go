package selfenc

import (
	"bytes"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// A map file contains a map of any encoding, and records the encoding:
//
//	"SEALVMAP" ‖ version u8 = 1 ‖ encoding u8 ‖ 00×6 ‖ body ‖ SHA-256 of all before
//
// The body is a sealed Object for V2. For the other encodings, it is a DataMap in a binary form,
// which must be kept as secret as the data.
const (
	mapFileMagic   = "SEALVMAP"
	mapFileVersion = 1
	mapFileHeader  = 16
	mapFileSum     = 32
)

// EncodeMapFile returns a map file.
func EncodeMapFile(e Encoding, body []byte) []byte {
	b := append(make([]byte, 0, mapFileHeader+len(body)+mapFileSum), mapFileMagic...)
	b = append(b, mapFileVersion, byte(e), 0, 0, 0, 0, 0, 0)
	b = append(b, body...)
	sum := crypto.ObjectName(b)
	return append(b, sum[:]...)
}

// IsMapFile reports whether b begins like a map file. No form of the reference implementation's
// maps does.
func IsMapFile(b []byte) bool { return bytes.HasPrefix(b, []byte(mapFileMagic)) }

// DecodeMapFile returns the encoding and body of a map file.
func DecodeMapFile(b []byte) (Encoding, []byte, error) {
	if !IsMapFile(b) || len(b) < mapFileHeader+mapFileSum {
		return 0, nil, fmt.Errorf("%w: not a map file", ErrMap)
	}
	if b[8] != mapFileVersion {
		return 0, nil, fmt.Errorf("%w: unknown version %d of map files; use a newer version of sealvol", ErrMap, b[8])
	}
	end := len(b) - mapFileSum
	if crypto.ObjectName(b[:end]) != [32]byte(b[end:]) {
		return 0, nil, fmt.Errorf("%w: the file was damaged", ErrMap)
	}
	e := Encoding(b[9])
	if _, err := ParseEncoding(e.String()); err != nil || [6]byte(b[10:16]) != [6]byte{} {
		return 0, nil, fmt.Errorf("%w: %w", ErrMap, ErrEncoding)
	}
	return e, b[mapFileHeader:end], nil
}
