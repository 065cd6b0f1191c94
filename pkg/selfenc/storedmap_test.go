package selfenc

import (
	"bytes"
	"errors"
	"testing"
)

// TestStoredMaps writes a map in each possible form, and reads it with each encoding that a caller
// may specify.
func TestStoredMaps(t *testing.T) {
	m := &DataMap{}
	for i := range 3 {
		m.Chunks = append(m.Chunks, ChunkInfo{Index: uint64(i), SrcBytes: 10})
	}
	for _, c := range []struct {
		encoding Encoding
		form     MapForm
		said     Encoding
		want     error
	}{
		{SE36, 0, 0, nil}, {SE36, 0, SE36, nil}, {SE36, 0, SE31, ErrOtherEncoding}, {SE36, 0, V2, ErrOtherEncoding}, {SE31, 0, 0, nil},
		{SE36, MapV1, 0, ErrNoEncoding}, {SE36, MapV1, SE36, nil}, {SE36, MapV1, V2, ErrOtherEncoding},
		{SE31, MapV1, SE31, nil}, {SE36, MapJSON, 0, ErrNoEncoding}, {SE36, MapJSON, SE36, nil},
		{SE31, MapV0C, 0, nil}, {SE31, MapV0C, SE31, nil}, {SE31, MapV0C, SE36, ErrOtherEncoding},
	} {
		if err := c.encoding.CheckMapForm(c.form); err != nil {
			t.Error(err)
		}
		b, err := m.Stored(c.encoding, c.form)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ReadStoredMap(b, c.said)
		if !errors.Is(err, c.want) {
			t.Errorf("%s in form %s, said to be %d: %v", c.encoding, c.form, c.said, err)
		}
		if c.want != nil || err != nil {
			continue
		}
		again, err := s.DataMap.Stored(s.Encoding, s.Form)
		if err != nil || !bytes.Equal(again, b) || s.Encoding != c.encoding || s.Form != c.form {
			t.Errorf("%s in form %s: read as %s in form %s, %v", c.encoding, c.form, s.Encoding, s.FormName(), err)
		}
	}
	s, err := ReadStoredMap(EncodeMapFile(V2, []byte("sealed")), 0)
	if err != nil || s.Encoding != V2 || string(s.Sealed) != "sealed" || s.FormName() != "file" {
		t.Error(s, err)
	}
	if _, err := ReadStoredMap([]byte("something"), 0); !errors.Is(err, ErrMap) {
		t.Error(err)
	}
	for form, encodings := range map[MapForm][]Encoding{MapV1: {V2}, MapV0: {V2, SE31, SE36}, MapV0C: {V2, SE36}} {
		for _, e := range encodings {
			if err := e.CheckMapForm(form); !errors.Is(err, ErrEncoding) {
				t.Errorf("%s in form %s: %v", e, form, err)
			}
		}
	}
}
