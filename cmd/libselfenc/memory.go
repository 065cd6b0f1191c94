package main

/*
#include <stdlib.h>
#define SELFENC_NO_PROTOTYPES
#include "selfenc.h"

// cgo uses these names in the prototypes that it generates.
typedef const char text_t;
typedef const uint8_t bytes_t;
*/
import "C"

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unsafe"

	"github.com/sealvol/sealvol/pkg/selfenc"
)

// bytesOf returns the caller's memory as a slice, which is valid during the call.
func bytesOf(p *C.bytes_t, n C.size_t) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	if p == nil {
		return nil, errors.New("the data is NULL")
	}
	if n > math.MaxInt32 {
		return nil, fmt.Errorf("%w: %d bytes in memory, at most 2 GiB are allowed; use the functions for files", selfenc.ErrTooLarge, uint64(n))
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), int(n)), nil
}

func goString(s *C.text_t) string { return C.GoString((*C.char)(unsafe.Pointer(s))) }

// output is a place for a result, which the caller frees.
type output struct {
	p **C.uint8_t
	n *C.size_t
}

// outputs checks the places of all results before any work starts. It sets them to NULL, so that
// the caller can free them after an error.
func outputs(list ...output) error {
	for _, o := range list {
		if o.p == nil || o.n == nil {
			return errors.New("a result pointer is NULL")
		}
		*o.p, *o.n = nil, 0
	}
	return nil
}

func (o output) give(b []byte) {
	// One additional byte, so that the result of malloc is never NULL.
	*o.p, *o.n = (*C.uint8_t)(C.CBytes(append(b, 0))), C.size_t(len(b))
}

func (o output) giveMap(m *selfenc.DataMap) error {
	b, err := m.Encode(selfenc.MapV1)
	if err == nil {
		o.give(b)
	}
	return err
}

func decodeMap(p *C.bytes_t, n C.size_t) (*selfenc.DataMap, error) {
	b, err := bytesOf(p, n)
	if err != nil {
		return nil, err
	}
	m, _, err := selfenc.DecodeDataMap(b)
	return m, err
}

// packed is a store of chunks in the caller's memory, by name.
type packed map[selfenc.Name][]byte

// pack writes chunks in the form that the header describes.
func pack(chunks []selfenc.Chunk) []byte {
	var list []byte
	for _, c := range chunks {
		list = append(binary.LittleEndian.AppendUint64(list, uint64(len(c.Data))), c.Data...)
	}
	return list
}

// unpack finds the chunks in the output of pack.
func unpack(e selfenc.Encoding, b []byte) (packed, error) {
	chunks := packed{}
	for len(b) > 0 {
		if len(b) < 8 || binary.LittleEndian.Uint64(b) > uint64(len(b)-8) {
			return nil, errors.New("malformed list of chunks")
		}
		n := 8 + int(binary.LittleEndian.Uint64(b))
		chunks[e.NameOf(b[8:n])] = b[8:n]
		b = b[n:]
	}
	return chunks, nil
}

func (p packed) GetChunk(_ context.Context, name selfenc.Name, room []byte, limit int) ([]byte, error) {
	b, ok := p[name]
	switch {
	case !ok:
		return nil, selfenc.ErrNoSuchChunk
	case len(b) > limit:
		return nil, selfenc.ErrChunkTooLarge
	}
	return append(room[:0], b...), nil // read-only: it is the caller's memory
}

func (p packed) PutChunk(context.Context, selfenc.Name, []byte) error { return errors.ErrUnsupported }
