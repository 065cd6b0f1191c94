package main

/*
#define SELFENC_NO_PROTOTYPES
#include "selfenc.h"
*/
import "C"

import (
	"errors"
	"syscall"

	"github.com/sealvol/sealvol/pkg/selfenc"
)

// errCallback is the error when a callback reports a failure. The caller knows the cause.
var errCallback = errors.New("the callback failed")

// codes maps errors to the codes of the header. The first match is used.
var codes = []struct {
	err  error
	code C.int
}{
	{errCallback, C.SELFENC_CALLBACK},
	{selfenc.ErrNoSuchChunk, C.SELFENC_NO_SUCH_CHUNK},
	{selfenc.ErrChunkTooSmall, C.SELFENC_CHUNK_TOO_SMALL},
	{selfenc.ErrChunkTooLarge, C.SELFENC_CHUNK_TOO_LARGE},
	{selfenc.ErrInvalidChunkSize, C.SELFENC_INVALID_CHUNK_SIZE},
	{selfenc.ErrCompression, C.SELFENC_COMPRESSION},
	{selfenc.ErrCorrupt, C.SELFENC_DECRYPTION},
	{selfenc.ErrTooSmall, C.SELFENC_TOO_SMALL},
	{selfenc.ErrTooLarge, C.SELFENC_TOO_LARGE},
	{selfenc.ErrMap, C.SELFENC_SERIALISATION},
	{errEncoding, C.SELFENC_ENCODING},
}

// codeOf returns the code of an error, as defined in the header.
func codeOf(err error) C.int {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return C.SELFENC_OS - C.int(errno)
	}
	return C.SELFENC_GENERIC
}
