package fact

import "fmt"

// appendDataContent appends the placeless form of a value of type data.
func appendDataContent(dst, v []byte) ([]byte, error) {
	if len(v) == 0 {
		return dst, fmt.Errorf("%w: data without an object", ErrInvalid)
	}
	return append(dst, v...), nil
}
