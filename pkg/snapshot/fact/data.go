package fact

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/selfenc"
)

// AppendData appends the encoding of the content of a larger file, which is that of the object.
func AppendData(b []byte, o *selfenc.PackedObject) ([]byte, error) {
	if err := o.Validate(); err != nil {
		return b, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return selfenc.AppendPackedObject(b, o), nil
}

// DecodeData decodes a value of type data.
func DecodeData(v []byte) (selfenc.PackedObject, error) {
	o, n, err := selfenc.DecodePackedObject(v)
	switch {
	case err != nil:
		return selfenc.PackedObject{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	case n != len(v):
		return selfenc.PackedObject{}, fmt.Errorf("%w: %d bytes after an object", ErrInvalid, len(v)-n)
	}
	return o, nil
}

// appendDataContent appends the placeless form of a value of type data.
func appendDataContent(dst, v []byte) ([]byte, error) {
	o, err := DecodeData(v)
	if err != nil {
		return dst, err
	}
	return selfenc.AppendPackedContent(dst, &o), nil
}
