package doublecrypt

import (
	"errors"
	"fmt"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// TestCodes compares errors and codes with the reference implementation's table.
func TestCodes(t *testing.T) {
	want := map[Code][]Variant{
		-1:  {BlockNotFound, ObjectNotFound, FileNotFound, DirectoryNotFound},
		-2:  {FileAlreadyExists, DirectoryAlreadyExists},
		-3:  {NoFreeBlocks, DataTooLarge},
		-4:  {BlockOutOfRange, BlockSizeMismatch},
		-5:  {NotInitialized, InvalidSuperblock, InvalidRootPointer},
		-6:  {IO},
		-7:  {Encryption, Decryption},
		-8:  {Serialization, Deserialization, Internal},
		-9:  {BufferTooSmall},
		-10: {NotAFile},
		-11: {NotADirectory},
		-12: {DirectoryNotEmpty},
		-13: {NameTooLong},
	}
	count := 0
	for code, list := range want {
		for _, v := range list {
			count++
			err := fmt.Errorf("wrapped: %w", &Error{Variant: v, Value: 7, Max: 5, Name: "n", err: errors.New("why")})
			if got := CodeOf(err); got != code {
				t.Errorf("%v: code %d, want %d", err, got, code)
			}
		}
	}
	if count != len(variants) {
		t.Errorf("%d of %d errors", count, len(variants))
	}
	for err, code := range map[error]Code{nil: 0, vfs.ErrNotExist: -1, vfs.ErrExist: -2, vfs.ErrNoSpace: -3, vfs.ErrFileTooBig: -3, vfs.ErrInvalid: -4,
		vfs.ErrClosed: -5, vfs.ErrIO: -6, vfs.ErrNotDir: -11, vfs.ErrIsDir: -10, vfs.ErrNotEmpty: -12, vfs.ErrNameTooLong: -13, errors.New("other"): -8} {
		if got := CodeOf(err); got != code {
			t.Errorf("%v: code %d, want %d", err, got, code)
		}
	}
}
