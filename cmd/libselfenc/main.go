// Command libselfenc is no command but a library: the C ABI of the reference
// implementation's self-encryption, for python/selfenc.py and other languages.
//
// `make libselfenc` builds it, shared and static, with its header selfenc.h. It
// has no handles: every call stands for itself. NULL where something is needed is
// an error, and so are numbers that are no encoding.
package main

/*
#include <stdlib.h>
#define SELFENC_NO_PROTOTYPES // cgo makes them; a test compiles with both
#include "selfenc.h"

// Their names are for the prototypes that cgo makes.
typedef const char text_t;
typedef const uint8_t bytes_t;

static inline int call_put(selfenc_put f, void *context, void *name, void *data, size_t size) {
	return f(context, name, data, size);
}
static inline int64_t call_get(selfenc_get f, void *context, void *name, uint64_t index, void *data, size_t limit) {
	return f(context, name, index, data, limit);
}
*/
import "C"

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/sealvol/sealvol/pkg/selfenc"
)

func main() {}

// bytesOf is the caller's memory, for the time of the call.
func bytesOf(p *C.bytes_t, n C.size_t) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	if p == nil || n > math.MaxInt32 {
		return nil, errors.New("no data, or more than 2 GiB at once")
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), int(n)), nil
}

// encodingOf is an encoding of the reference's; nothing else comes through here.
func encodingOf(n C.int) (selfenc.Encoding, error) {
	for _, e := range []selfenc.Encoding{selfenc.SE31, selfenc.SE36} {
		if n == C.int(e) {
			return e, nil
		}
	}
	return 0, fmt.Errorf("%w: %d; it is 31 or 36", selfenc.ErrEncoding, int(n))
}

// output is where a result goes, which the caller frees.
type output struct {
	p **C.uint8_t
	n *C.size_t
}

// outputs checks the places of all results before anything is done, and leaves
// nothing in them that a caller might free after an error.
func outputs(list ...output) error {
	for _, o := range list {
		if o.p == nil || o.n == nil {
			return errors.New("no place for the result")
		}
		*o.p, *o.n = nil, 0
	}
	return nil
}

func (o output) give(b []byte) {
	// One byte more, so that it is never NULL.
	*o.p, *o.n = (*C.uint8_t)(C.CBytes(append(b, 0))), C.size_t(len(b))
}

// result is what a function returns, having set text if it failed.
func result(text **C.char, f func() error) C.int {
	if text != nil {
		*text = nil
	}
	err := f()
	if err == nil {
		return 0
	}
	if text != nil {
		*text = C.CString(err.Error())
	}
	return -1
}

var errNoFunction = errors.New("no path, or no function")

func goString(s *C.text_t) string { return C.GoString((*C.char)(unsafe.Pointer(s))) }

//export selfenc_free
func selfenc_free(p unsafe.Pointer) { C.free(p) }

// selfenc_encrypt encrypts size bytes. The map comes in its newest form; the
// chunks one after the other, each behind its length as u64, little-endian.
//
//export selfenc_encrypt
func selfenc_encrypt(encoding C.int, data *C.bytes_t, size C.size_t, mapOut **C.uint8_t, mapSize *C.size_t, chunksOut **C.uint8_t, chunksSize *C.size_t, text **C.char) C.int {
	return result(text, func() error {
		mapTo, chunksTo := output{mapOut, mapSize}, output{chunksOut, chunksSize}
		if err := outputs(mapTo, chunksTo); err != nil {
			return err
		}
		e, err := encodingOf(encoding)
		if err != nil {
			return err
		}
		plain, err := bytesOf(data, size)
		if err != nil {
			return err
		}
		m, chunks, err := selfenc.Encrypt(e, plain, selfenc.Options{})
		if err != nil {
			return err
		}
		var list []byte
		for _, c := range chunks {
			list = append(binary.LittleEndian.AppendUint64(list, uint64(len(c.Data))), c.Data...)
		}
		b, err := m.Encode(selfenc.MapV1)
		if err != nil {
			return err
		}
		chunksTo.give(list)
		mapTo.give(b)
		return nil
	})
}

// selfenc_decrypt decrypts what selfenc_encrypt returned. Chunks may come in
// any order.
//
//export selfenc_decrypt
func selfenc_decrypt(encoding C.int, dataMap *C.bytes_t, mapSize C.size_t, chunksIn *C.bytes_t, chunksSize C.size_t, dataOut **C.uint8_t, dataSize *C.size_t, text **C.char) C.int {
	return result(text, func() error {
		to := output{dataOut, dataSize}
		if err := outputs(to); err != nil {
			return err
		}
		e, err := encodingOf(encoding)
		if err != nil {
			return err
		}
		m, err := decodeMap(dataMap, mapSize)
		if err != nil {
			return err
		}
		b, err := bytesOf(chunksIn, chunksSize)
		if err != nil {
			return err
		}
		chunks, err := unpack(e, b)
		if err != nil {
			return err
		}
		r, err := selfenc.Open(context.Background(), e, chunks, m, selfenc.Options{})
		if err != nil {
			return err
		}
		if r.Size() > math.MaxInt32 {
			return fmt.Errorf("%w: %d bytes to return at once", selfenc.ErrTooLarge, r.Size())
		}
		var plain bytes.Buffer // it grows as chunks prove what the map says
		if err := r.Copy(context.Background(), &plain, 0, r.Size()); err != nil {
			return err
		}
		to.give(plain.Bytes())
		return nil
	})
}

// packed is chunks in the caller's memory, by name.
type packed map[selfenc.Name][]byte

// unpack finds the chunks in what selfenc_encrypt returned.
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
	return append(room[:0], b...), nil // the caller's memory is not changed
}

func (p packed) PutChunk(context.Context, selfenc.Name, []byte) error { return errors.ErrUnsupported }

func decodeMap(p *C.bytes_t, n C.size_t) (*selfenc.DataMap, error) {
	b, err := bytesOf(p, n)
	if err != nil {
		return nil, err
	}
	m, _, err := selfenc.DecodeDataMap(b)
	return m, err
}

// callbacks is a store that the caller keeps.
type callbacks struct {
	put     C.selfenc_put
	get     C.selfenc_get
	context unsafe.Pointer
	index   map[selfenc.Name]uint64
}

func (c *callbacks) PutChunk(_ context.Context, name selfenc.Name, data []byte) error {
	// In C's memory: Go's stack may move while other code runs.
	n, b := C.CBytes(name[:]), C.CBytes(data)
	defer C.free(n)
	defer C.free(b)
	if C.call_put(c.put, c.context, n, b, C.size_t(len(data))) != 0 {
		return errors.New("the caller could not store it")
	}
	return nil
}

func (c *callbacks) GetChunk(_ context.Context, name selfenc.Name, room []byte, limit int) ([]byte, error) {
	n, b := C.CBytes(name[:]), C.malloc(C.size_t(limit))
	defer C.free(n)
	defer C.free(b)
	switch got := int64(C.call_get(c.get, c.context, n, C.uint64_t(c.index[name]), b, C.size_t(limit))); {
	case got == -1:
		return nil, selfenc.ErrNoSuchChunk
	case got == -3 || got > int64(limit):
		return nil, selfenc.ErrChunkTooLarge
	case got < 0:
		return nil, errors.New("the caller could not read it")
	default:
		return append(room[:0], unsafe.Slice((*byte)(b), got)...), nil
	}
}

// selfenc_encrypt_file encrypts a file with bounded memory and passes each
// chunk to put.
//
//export selfenc_encrypt_file
func selfenc_encrypt_file(encoding C.int, path *C.text_t, put C.selfenc_put, ctx unsafe.Pointer, mapOut **C.uint8_t, mapSize *C.size_t, text **C.char) C.int {
	return result(text, func() error {
		to := output{mapOut, mapSize}
		if err := outputs(to); err != nil {
			return err
		}
		e, err := encodingOf(encoding)
		if err != nil {
			return err
		}
		if path == nil || put == nil {
			return errNoFunction
		}
		f, err := os.Open(goString(path))
		if err != nil {
			return err
		}
		defer f.Close()
		m, err := selfenc.EncryptTo(context.Background(), e, &callbacks{put: put, context: ctx}, f, selfenc.Options{})
		if err != nil {
			return err
		}
		b, err := m.Encode(selfenc.MapV1)
		if err != nil {
			return err
		}
		to.give(b)
		return nil
	})
}

// selfenc_decrypt_file asks get for chunks and writes a file, which gets its
// name when it is whole.
//
//export selfenc_decrypt_file
func selfenc_decrypt_file(encoding C.int, dataMap *C.bytes_t, mapSize C.size_t, path *C.text_t, get C.selfenc_get, ctx unsafe.Pointer, text **C.char) C.int {
	return result(text, func() error {
		if path == nil || get == nil {
			return errNoFunction
		}
		e, err := encodingOf(encoding)
		if err != nil {
			return err
		}
		m, err := decodeMap(dataMap, mapSize)
		if err != nil {
			return err
		}
		store := &callbacks{get: get, context: ctx, index: map[selfenc.Name]uint64{}}
		store.know(m)
		root, err := selfenc.RootMap(context.Background(), e, store, m, selfenc.Options{})
		if err != nil {
			return err
		}
		store.know(root)
		r, err := selfenc.Open(context.Background(), e, store, root, selfenc.Options{})
		if err != nil {
			return err
		}
		return writeFile(goString(path), r)
	})
}

// know keeps the chunks' numbers, for callbacks that want them.
func (c *callbacks) know(m *selfenc.DataMap) {
	for i := range m.Chunks {
		c.index[m.Chunks[i].DstHash] = m.Chunks[i].Index
	}
}

func writeFile(path string, r *selfenc.Reader) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	err = r.Copy(context.Background(), f, 0, r.Size())
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		if rerr := os.Remove(f.Name()); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// selfenc_map_convert reads a map in any form and writes it in the one named:
// "v0", "v0c", "v1" or "json".
//
//export selfenc_map_convert
func selfenc_map_convert(dataMap *C.bytes_t, mapSize C.size_t, form *C.text_t, out **C.uint8_t, outSize *C.size_t, text **C.char) C.int {
	return result(text, func() error {
		to := output{out, outSize}
		if err := outputs(to); err != nil {
			return err
		}
		if form == nil {
			return fmt.Errorf("%w: no form", selfenc.ErrEncoding)
		}
		m, err := decodeMap(dataMap, mapSize)
		if err != nil {
			return err
		}
		f, err := selfenc.ParseMapForm(goString(form))
		if err != nil {
			return err
		}
		b, err := m.Encode(f)
		if err != nil {
			return err
		}
		to.give(b)
		return nil
	})
}

// selfenc_name writes the name of a stored chunk.
//
//export selfenc_name
func selfenc_name(encoding C.int, data *C.bytes_t, size C.size_t, name *C.uint8_t, text **C.char) C.int {
	return result(text, func() error {
		e, err := encodingOf(encoding)
		if err != nil {
			return err
		}
		b, err := bytesOf(data, size)
		if err != nil {
			return err
		}
		if name == nil {
			return errors.New("no place for the result")
		}
		*(*selfenc.Name)(unsafe.Pointer(name)) = e.NameOf(b)
		return nil
	})
}
