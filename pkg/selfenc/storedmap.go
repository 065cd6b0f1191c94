package selfenc

import (
	"errors"
	"fmt"
)

var (
	// ErrNoEncoding means that neither the map nor the caller specifies the encoding.
	ErrNoEncoding = errors.New("the map does not record its encoding")
	// ErrOtherEncoding means that the map cannot have the encoding that the caller specified.
	ErrOtherEncoding = errors.New("the map has another encoding")
)

// StoredMap is the map in a file, in any encoding and form.
type StoredMap struct {
	Encoding Encoding
	// Form is the form of the reference implementation, or 0 for a map file.
	Form MapForm
	// DataMap is the map of SE31 and SE36.
	DataMap *DataMap
	// Sealed is the map of V2, for Sealer.OpenObject.
	Sealed []byte
}

// FormName returns the name of the map's form, which is "file" for a map file.
func (m *StoredMap) FormName() string {
	if m.Form == 0 {
		return "file"
	}
	return m.Form.String()
}

// ReadStoredMap detects the kind of map in b, and decodes it. The reference implementation's forms
// do not record their encoding, and SE36 and SE31 share the newer forms. given is the encoding that
// the caller specifies, or 0. Errors are ErrMap, ErrNoEncoding or ErrOtherEncoding.
func ReadStoredMap(b []byte, given Encoding) (*StoredMap, error) {
	if IsMapFile(b) {
		return readMapFile(b, given)
	}
	d, form, err := DecodeDataMap(b)
	if err != nil {
		return nil, err
	}
	m := &StoredMap{Form: form, DataMap: d}
	if m.Encoding, err = encodingOf(form, given); err != nil {
		return nil, err
	}
	return m, nil
}

func readMapFile(b []byte, given Encoding) (*StoredMap, error) {
	e, body, err := DecodeMapFile(b)
	if err != nil {
		return nil, err
	}
	if given != 0 && given != e {
		return nil, fmt.Errorf("%w: %s", ErrOtherEncoding, e)
	}
	m := &StoredMap{Encoding: e}
	if e == V2 {
		m.Sealed = body
		return m, nil
	}
	m.DataMap, _, err = DecodeDataMap(body)
	return m, err
}

// encodingOf returns the encoding of a map in one of the reference implementation's forms.
func encodingOf(form MapForm, given Encoding) (Encoding, error) {
	old := form == MapV0 || form == MapV0C // only SE31 has these forms
	switch {
	case given == 0 && old:
		return SE31, nil
	case given == 0:
		return 0, fmt.Errorf("%w: maps of the form %s may have the encoding se36 or se31", ErrNoEncoding, form)
	case given != SE31 && given != SE36, given == SE36 && old:
		return 0, fmt.Errorf("%w: maps of %s do not have the form %s", ErrOtherEncoding, given, form)
	}
	return given, nil
}

// CheckMapForm returns ErrEncoding if a map of an encoding cannot be written in one of the
// reference implementation's forms. Form 0 is a map file, which is possible for every map.
func (e Encoding) CheckMapForm(form MapForm) error {
	switch {
	case form == 0:
		return nil
	case e == V2, form == MapV0, form == MapV0C && e != SE31:
		return fmt.Errorf("%w: a map of %s cannot have the form %s", ErrEncoding, e, form)
	}
	return nil
}

// Levels returns the form of the levels below a map in a given form, for Options.MapForm. Versions
// that read a form require the levels in the same form. JSON maps have binary levels.
func (f MapForm) Levels() MapForm {
	if f == MapJSON {
		return MapV1
	}
	return f
}

// Stored returns the map in one of the reference implementation's forms, or as a map file if form
// is 0.
func (m *DataMap) Stored(e Encoding, form MapForm) ([]byte, error) {
	if form != 0 {
		return m.Encode(form)
	}
	b, err := m.Encode(MapV1)
	if err != nil {
		return nil, err
	}
	return EncodeMapFile(e, b), nil
}
