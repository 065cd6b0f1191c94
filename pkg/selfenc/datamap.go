package selfenc

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
)

// ChunkInfo is the entry of a data map for one chunk.
type ChunkInfo struct {
	Index    uint64 `json:"index"`
	DstHash  Name   `json:"dst_hash"` // hash of the stored bytes: the chunk's name
	SrcHash  Name   `json:"src_hash"` // hash of the plaintext, which is secret
	SrcBytes uint64 `json:"src_size"` // plaintext
}

// DataMap is the map of the reference encodings. It contains the keys of the chunks: anybody who
// has the map and the chunks can read the data.
type DataMap struct {
	Chunks []ChunkInfo
	// Child is 0 in the map of the data. Otherwise, the plaintext of the chunks is a serialised
	// map, and Child is the number of levels above the data.
	Child uint64
}

// MapForm is a serialisation of a data map.
type MapForm uint8

// The serialisations.
const (
	MapV0   MapForm = 1 + iota // crate version 0.30.0: no child
	MapV0C                     // 0.30.266 and 0.31
	MapV1                      // 0.33 to 0.36
	MapJSON                    // human-readable, since 0.33
)

// String returns the form's name.
func (f MapForm) String() string {
	switch f {
	case MapV0:
		return "v0"
	case MapV0C:
		return "v0c"
	case MapV1:
		return "v1"
	case MapJSON:
		return "json"
	}
	return fmt.Sprintf("form %d", uint8(f))
}

// ParseMapForm parses the result of String.
func ParseMapForm(s string) (MapForm, error) {
	for _, f := range []MapForm{MapV0, MapV0C, MapV1, MapJSON} {
		if s == f.String() {
			return f, nil
		}
	}
	return 0, fmt.Errorf("%w %q: the form of a map must be v0, v0c, v1 or json", ErrEncoding, s)
}

const (
	chunkInfoBytes = 80
	mapVersion     = 1
)

// Validate checks a map before use: it must have at least three chunks, numbered without gaps, and
// no chunk may be empty or larger than the limits of this package.
func (m *DataMap) Validate() error {
	if len(m.Chunks) < 3 {
		return fmt.Errorf("%w: %d chunks, at least 3 are needed", ErrMap, len(m.Chunks))
	}
	if len(m.Chunks) > maxMapChunks {
		return fmt.Errorf("%w: %d chunks, at most %d are read", ErrMap, len(m.Chunks), maxMapChunks)
	}
	if m.Child > maxMapLevels {
		return fmt.Errorf("%w: %d levels, at most %d are read", ErrMap, m.Child, maxMapLevels)
	}
	for i := range m.Chunks {
		switch c := &m.Chunks[i]; {
		case c.Index != uint64(i):
			return fmt.Errorf("%w: chunk %d is at position %d", ErrMap, c.Index, i)
		case c.SrcBytes == 0 || c.SrcBytes > maxChunkBytes:
			return fmt.Errorf("%w: chunk %d has %d bytes", ErrMap, i, c.SrcBytes)
		}
	}
	return nil
}

// PlainBytes returns the length of the chunks' plaintext. It cannot overflow with the maximum of
// 2^22 chunks of 64 MiB.
func (m *DataMap) PlainBytes() int64 {
	n := int64(0)
	for i := range m.Chunks {
		n += int64(m.Chunks[i].SrcBytes)
	}
	return n
}

// encodedBytes returns the length of the binary form.
func (m *DataMap) encodedBytes(f MapForm) int {
	n := 8 + chunkInfoBytes*len(m.Chunks)
	if f != MapV0 {
		n++
	}
	if f == MapV1 {
		n++
	}
	if m.Child != 0 {
		n += 8
	}
	return n
}

// Encode returns the map in one of its forms.
func (m *DataMap) Encode(f MapForm) ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	switch {
	case f == MapJSON:
		return m.encodeJSON()
	case f == MapV0 && m.Child != 0:
		return nil, fmt.Errorf("%w: the form v0 has no levels", ErrEncoding)
	case f != MapV0 && f != MapV0C && f != MapV1:
		return nil, fmt.Errorf("%w: form %s", ErrEncoding, f)
	}
	b := make([]byte, 0, m.encodedBytes(f))
	if f == MapV1 {
		b = append(b, mapVersion)
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(len(m.Chunks)))
	for i := range m.Chunks {
		c := &m.Chunks[i]
		b = binary.LittleEndian.AppendUint64(b, c.Index)
		b = append(append(b, c.DstHash[:]...), c.SrcHash[:]...)
		b = binary.LittleEndian.AppendUint64(b, c.SrcBytes)
	}
	switch {
	case f == MapV0:
	case m.Child == 0:
		b = append(b, 0)
	default:
		b = binary.LittleEndian.AppendUint64(append(b, 1), m.Child)
	}
	return b, nil
}

// DecodeDataMap decodes a map in any form, and returns the form. The forms have no checksum, and a
// truncated MapV0C may be a valid MapV0. So a caller that knows the expected form should compare
// it.
func DecodeDataMap(b []byte) (*DataMap, MapForm, error) {
	if len(b) > 0 && b[0] == '{' && json.Valid(b) {
		m, err := decodeJSON(b)
		return m, MapJSON, err
	}
	return decodeBinary(b)
}

// decodeBinary decodes a binary form. The forms are distinguished by the remainder of the length
// after whole chunks.
func decodeBinary(b []byte) (*DataMap, MapForm, error) {
	var f MapForm
	child := false
	switch len(b) % chunkInfoBytes {
	case 8:
		f = MapV0
	case 9:
		f = MapV0C
	case 17:
		f, child = MapV0C, true
	case 10:
		f = MapV1
	case 18:
		f, child = MapV1, true
	default:
		return nil, 0, fmt.Errorf("%w: no form has a length of %d bytes", ErrMap, len(b))
	}
	if f == MapV1 {
		if b[0] != mapVersion {
			return nil, 0, fmt.Errorf("%w: version %d", ErrMap, b[0])
		}
		b = b[1:]
	}
	n := binary.LittleEndian.Uint64(b)
	b = b[8:]
	if n != uint64(len(b)/chunkInfoBytes) { // the remainder is shorter than an entry
		return nil, 0, fmt.Errorf("%w: the number of chunks should be %d", ErrMap, n)
	}
	m := &DataMap{}
	if n > maxMapChunks {
		return nil, 0, fmt.Errorf("%w: %d chunks, at most %d are read", ErrMap, n, maxMapChunks)
	}
	m.Chunks = make([]ChunkInfo, n)
	for i := range m.Chunks {
		c := &m.Chunks[i]
		c.Index = binary.LittleEndian.Uint64(b)
		copy(c.DstHash[:], b[8:])
		copy(c.SrcHash[:], b[40:])
		c.SrcBytes = binary.LittleEndian.Uint64(b[72:])
		b = b[chunkInfoBytes:]
	}
	if f != MapV0 {
		if want := map[bool]byte{true: 1}[child]; b[0] != want {
			return nil, 0, fmt.Errorf("%w: unknown tag %d", ErrMap, b[0])
		}
		if child {
			if m.Child = binary.LittleEndian.Uint64(b[1:]); m.Child == 0 {
				return nil, 0, fmt.Errorf("%w: level 0", ErrMap)
			}
		}
	}
	return m, f, m.Validate()
}

// jsonMap is the human-readable form.
type jsonMap struct {
	Chunks []ChunkInfo `json:"chunk_identifiers"`
	Child  *uint64     `json:"child"`
}

func (m *DataMap) encodeJSON() ([]byte, error) {
	j := jsonMap{Chunks: m.Chunks}
	if m.Child != 0 {
		j.Child = &m.Child
	}
	return json.Marshal(j)
}

func decodeJSON(b []byte) (*DataMap, error) {
	var j jsonMap
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMap, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: additional data after the map", ErrMap)
	}
	m := &DataMap{Chunks: j.Chunks}
	if j.Child != nil {
		if m.Child = *j.Child; m.Child == 0 {
			return nil, fmt.Errorf("%w: level 0", ErrMap)
		}
	}
	return m, m.Validate()
}

// link returns the hashes that chunk i is encrypted with.
func (m *DataMap) neighbours(i int) (previous, before int) {
	n := len(m.Chunks)
	return (i + n - 1) % n, (i + n - 2) % n
}

// maxStored returns the maximum stored length of a chunk with the given plaintext, for any encoder.
// It includes the overhead of brotli for incompressible data, and that of the cipher.
func maxStored(plainBytes uint64) int {
	return int(min(plainBytes+plainBytes/1024+4096, math.MaxInt32))
}
