package doublecrypt

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Code is a result code of the reference implementation's C interface.
type Code int32

// The codes.
const (
	CodeOK                Code = 0
	CodeNotFound          Code = -1
	CodeAlreadyExists     Code = -2
	CodeNoSpace           Code = -3
	CodeInvalidArgument   Code = -4
	CodeNotInitialized    Code = -5
	CodeIO                Code = -6
	CodeCrypto            Code = -7
	CodeInternal          Code = -8
	CodeBufferTooSmall    Code = -9
	CodeNotAFile          Code = -10
	CodeNotADirectory     Code = -11
	CodeDirectoryNotEmpty Code = -12
	CodeNameTooLong       Code = -13
)

// Variant is one of the reference implementation's errors.
type Variant int

// The variants. IO is an addition: the reference implementation has a code for it, but returns
// Internal.
const (
	Internal Variant = iota
	BlockNotFound
	ObjectNotFound
	FileNotFound
	DirectoryNotFound
	FileAlreadyExists
	DirectoryAlreadyExists
	NoFreeBlocks
	DataTooLarge
	BlockOutOfRange
	BlockSizeMismatch
	NotInitialized
	InvalidSuperblock
	InvalidRootPointer
	Encryption
	Decryption
	Serialization
	Deserialization
	NotAFile
	NotADirectory
	DirectoryNotEmpty
	NameTooLong
	BufferTooSmall
	IO
)

var variants = [...]struct {
	code Code
	text string
}{
	Internal:               {CodeInternal, "internal error"},
	BlockNotFound:          {CodeNotFound, "block not found"},
	ObjectNotFound:         {CodeNotFound, "object not found"},
	FileNotFound:           {CodeNotFound, "file not found"},
	DirectoryNotFound:      {CodeNotFound, "directory not found"},
	FileAlreadyExists:      {CodeAlreadyExists, "file already exists"},
	DirectoryAlreadyExists: {CodeAlreadyExists, "directory already exists"},
	NoFreeBlocks:           {CodeNoSpace, "no free blocks available"},
	DataTooLarge:           {CodeNoSpace, "data too large for a block"},
	BlockOutOfRange:        {CodeInvalidArgument, "block out of range"},
	BlockSizeMismatch:      {CodeInvalidArgument, "block size mismatch"},
	NotInitialized:         {CodeNotInitialized, "filesystem not initialized"},
	InvalidSuperblock:      {CodeNotInitialized, "invalid superblock"},
	InvalidRootPointer:     {CodeNotInitialized, "invalid root pointer"},
	Encryption:             {CodeCrypto, "encryption error"},
	Decryption:             {CodeCrypto, "decryption error"},
	Serialization:          {CodeInternal, "serialization error"},
	Deserialization:        {CodeInternal, "deserialization error"},
	NotAFile:               {CodeNotAFile, "not a file"},
	NotADirectory:          {CodeNotADirectory, "not a directory"},
	DirectoryNotEmpty:      {CodeDirectoryNotEmpty, "directory not empty"},
	NameTooLong:            {CodeNameTooLong, "name too long"},
	BufferTooSmall:         {CodeBufferTooSmall, "buffer too small"},
	IO:                     {CodeIO, "device error"},
}

// Error is an error of the reference implementation. Most also wrap the corresponding error of
// pkg/volume/vfs.
type Error struct {
	Variant Variant
	Name    string // the component of the path with the error; only Core sets it
	Value   uint64 // block, length or size, depending on the variant
	Max     uint64 // the expected value
	err     error
}

// Error returns a message, without the cause of a failed decryption.
func (e *Error) Error() string {
	s := variants[e.Variant].text
	switch e.Variant {
	case BlockNotFound, ObjectNotFound, BlockOutOfRange, DataTooLarge, Decryption:
		if e.Value != 0 {
			s = fmt.Sprintf("%s: %d", s, e.Value)
		}
	case BlockSizeMismatch:
		s = fmt.Sprintf("%s: %d, not %d", s, e.Value, e.Max)
	case NameTooLong:
		s = fmt.Sprintf("%s: %d bytes, %d are allowed", s, e.Value, e.Max)
	}
	if e.Name != "" {
		s = fmt.Sprintf("%s: %q", s, e.Name)
	}
	if e.err != nil {
		s += ": " + e.err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.err }

// CodeOf returns the code of an error in the reference implementation's C interface.
func CodeOf(err error) Code {
	if err == nil {
		return CodeOK
	}
	if e := (*Error)(nil); errors.As(err, &e) {
		return variants[e.Variant].code
	}
	for _, k := range []struct {
		err  error
		code Code
	}{
		{vfs.ErrNotExist, CodeNotFound}, {vfs.ErrExist, CodeAlreadyExists}, {vfs.ErrNoSpace, CodeNoSpace},
		{vfs.ErrFileTooBig, CodeNoSpace}, {vfs.ErrInvalid, CodeInvalidArgument}, {vfs.ErrIO, CodeIO}, {vfs.ErrNotDir, CodeNotADirectory},
		{vfs.ErrIsDir, CodeNotAFile}, {vfs.ErrNotEmpty, CodeDirectoryNotEmpty}, {vfs.ErrNameTooLong, CodeNameTooLong},
		{vfs.ErrClosed, CodeNotInitialized},
	} {
		if errors.Is(err, k.err) {
			return k.code
		}
	}
	return CodeInternal
}

// corrupt returns the error for damage that was found while decoding.
func corrupt(v Variant, what string, err error) error {
	return &Error{Variant: v, err: fmt.Errorf("%s: %w: %w", what, err, vfs.ErrCorrupt)}
}
