package fact

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// AppendData appends the encoding of the content of a larger file, which is that of the object.
func AppendData(b []byte, o *selfenc.PackedObject) ([]byte, error) {
	if err := checkData(o); err != nil {
		return b, err
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
	return o, checkData(&o)
}

// checkData checks an object that is the content of a file. Smaller content is inline, and zeros
// alone have no fact.
func checkData(o *selfenc.PackedObject) error {
	if err := o.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if o.Bytes <= logical.MaxInline || o.Root == (selfenc.PackedRef{}) {
		return fmt.Errorf("%w: content of %d bytes that is not data: it is small, or zeros alone", ErrInvalid, o.Bytes)
	}
	return nil
}

// appendDataContent appends the placeless form of a value of type data.
func appendDataContent(dst, v []byte) ([]byte, error) {
	o, err := DecodeData(v)
	if err != nil {
		return dst, err
	}
	return selfenc.AppendPackedContent(dst, &o), nil
}
