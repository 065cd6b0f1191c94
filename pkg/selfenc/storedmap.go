package selfenc

import (
	"errors"
	"fmt"
)

var (
	// ErrNoEncoding is of a map that does not say its encoding, where the caller did not either.
	ErrNoEncoding = errors.New("the map does not say its encoding")
	// ErrOtherEncoding is of a map that cannot be of the encoding that the caller has said.
	ErrOtherEncoding = errors.New("the map is of another encoding")
)

// StoredMap is a map as a file holds it: of any encoding, in any form.
type StoredMap struct {
	Encoding Encoding
	// Form is the reference's; 0: a map file.
	Form MapForm
	// DataMap is the map of SE31 and SE36.
	DataMap *DataMap
	// Sealed is the map of V2, for Sealer.OpenObject.
	Sealed []byte
}

// FormName is the name of the map's form; a map file's is "file".
func (m *StoredMap) FormName() string {
	if m.Form == 0 {
		return "file"
	}
	return m.Form.String()
}

// ReadStoredMap finds out what kind of map b is. The reference's forms do not say their encoding:
// SE36 and SE31 share the newer ones. said is the encoding that the caller knows of, 0: none.
// Errors are ErrMap, ErrNoEncoding or ErrOtherEncoding.
func ReadStoredMap(b []byte, said Encoding) (*StoredMap, error) {
	if IsMapFile(b) {
		return readMapFile(b, said)
	}
	d, form, err := DecodeDataMap(b)
	if err != nil {
		return nil, err
	}
	m := &StoredMap{Form: form, DataMap: d}
	if m.Encoding, err = encodingOf(form, said); err != nil {
		return nil, err
	}
	return m, nil
}

func readMapFile(b []byte, said Encoding) (*StoredMap, error) {
	e, body, err := DecodeMapFile(b)
	if err != nil {
		return nil, err
	}
	if said != 0 && said != e {
		return nil, fmt.Errorf("%w: it says %s", ErrOtherEncoding, e)
	}
	m := &StoredMap{Encoding: e}
	if e == V2 {
		m.Sealed = body
		return m, nil
	}
	m.DataMap, _, err = DecodeDataMap(body)
	return m, err
}

// encodingOf is what a map of one of the reference's forms belongs to.
func encodingOf(form MapForm, said Encoding) (Encoding, error) {
	old := form == MapV0 || form == MapV0C // SE31 alone has these
	switch {
	case said == 0 && old:
		return SE31, nil
	case said == 0:
		return 0, fmt.Errorf("%w: maps of the form %s may be of se36 or se31", ErrNoEncoding, form)
	case said != SE31 && said != SE36, said == SE36 && old:
		return 0, fmt.Errorf("%w: maps of %s do not have the form %s", ErrOtherEncoding, said, form)
	}
	return said, nil
}

// CheckMapForm tells whether a map of an encoding may be written in one of the reference's forms;
// form 0 is a map file, which every map may be. The error is ErrEncoding.
func (e Encoding) CheckMapForm(form MapForm) error {
	switch {
	case form == 0:
		return nil
	case e == V2, form == MapV0, form == MapV0C && e != SE31:
		return fmt.Errorf("%w: a map of %s cannot have the form %s", ErrEncoding, e, form)
	}
	return nil
}

// Levels is the form in which the levels below a map of a form are stored, for Options.MapForm:
// versions that read a form want the levels in it, too. JSON maps have binary levels.
func (f MapForm) Levels() MapForm {
	if f == MapJSON {
		return MapV1
	}
	return f
}

// Stored returns the map in one of the reference's forms, or as a map file if form is 0.
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
