// Command libselfenc is no command but a library: the C ABI of the reference
// implementation's self-encryption, for python/selfenc.py and other languages.
//
//	go build -buildmode=c-shared -o libselfenc.so ./cmd/libselfenc
package main

/*
#include <stdlib.h>
#include "selfenc.h"

static inline int call_put(selfenc_put f, void *context, void *name, void *data, size_t size) {
	return f(context, name, data, size);
}
static inline int64_t call_get(selfenc_get f, void *context, void *name, uint64_t index, void *data, size_t limit) {
	return f(context, name, index, data, limit);
}
*/
import "C"

import (
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
func bytesOf(p unsafe.Pointer, n C.size_t) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	if p == nil || n > math.MaxInt32 {
		return nil, errors.New("no data, or more than 2 GiB at once")
	}
	return unsafe.Slice((*byte)(p), int(n)), nil
}

// give sets a result that the caller frees.
func give(b []byte, p *unsafe.Pointer, n *C.size_t) error {
	if p == nil || n == nil {
		return errors.New("no place for the result")
	}
	*p, *n = C.CBytes(append(b, 0)), C.size_t(len(b)) // one byte more, so that it is never NULL
	return nil
}

// result is what a function returns.
func result(err error, text **C.char) C.int {
	if err == nil {
		return 0
	}
	if text != nil {
		*text = C.CString(err.Error())
	}
	return -1
}

//export selfenc_free
func selfenc_free(p unsafe.Pointer) { C.free(p) }

// selfenc_encrypt encrypts size bytes. The map comes in its newest form; the
// chunks one after the other, each behind its length as u64, little-endian.
//
//export selfenc_encrypt
func selfenc_encrypt(encoding C.int, data unsafe.Pointer, size C.size_t, mapOut *unsafe.Pointer, mapSize *C.size_t, chunksOut *unsafe.Pointer, chunksSize *C.size_t, text **C.char) C.int {
	return result(func() error {
		plain, err := bytesOf(data, size)
		if err != nil {
			return err
		}
		m, chunks, err := selfenc.Encrypt(selfenc.Encoding(encoding), plain, selfenc.Options{})
		if err != nil {
			return err
		}
		var packed []byte
		for _, c := range chunks {
			packed = append(binary.LittleEndian.AppendUint64(packed, uint64(len(c.Data))), c.Data...)
		}
		b, err := m.Encode(selfenc.MapV1)
		if err != nil {
			return err
		}
		if err := give(packed, chunksOut, chunksSize); err != nil {
			return err
		}
		return give(b, mapOut, mapSize)
	}(), text)
}

// selfenc_decrypt decrypts what selfenc_encrypt returned. Chunks may come in
// any order.
//
//export selfenc_decrypt
func selfenc_decrypt(encoding C.int, dataMap unsafe.Pointer, mapSize C.size_t, packed unsafe.Pointer, packedSize C.size_t, dataOut *unsafe.Pointer, dataSize *C.size_t, text **C.char) C.int {
	return result(func() error {
		m, err := decodeMap(dataMap, mapSize)
		if err != nil {
			return err
		}
		b, err := bytesOf(packed, packedSize)
		if err != nil {
			return err
		}
		e := selfenc.Encoding(encoding)
		var chunks []selfenc.Chunk
		for len(b) > 0 {
			if len(b) < 8 || binary.LittleEndian.Uint64(b) > uint64(len(b)-8) {
				return errors.New("malformed list of chunks")
			}
			n := int(binary.LittleEndian.Uint64(b))
			chunks = append(chunks, selfenc.Chunk{Name: e.NameOf(b[8 : 8+n]), Data: b[8 : 8+n]})
			b = b[8+n:]
		}
		plain, err := selfenc.Decrypt(e, m, chunks, selfenc.Options{})
		if err != nil {
			return err
		}
		return give(plain, dataOut, dataSize)
	}(), text)
}

func decodeMap(p unsafe.Pointer, n C.size_t) (*selfenc.DataMap, error) {
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
func selfenc_encrypt_file(encoding C.int, path *C.char, put C.selfenc_put, ctx unsafe.Pointer, mapOut *unsafe.Pointer, mapSize *C.size_t, text **C.char) C.int {
	return result(func() error {
		if path == nil || put == nil {
			return errors.New("no path, or no function")
		}
		f, err := os.Open(C.GoString(path))
		if err != nil {
			return err
		}
		defer f.Close()
		m, err := selfenc.EncryptTo(context.Background(), selfenc.Encoding(encoding), &callbacks{put: put, context: ctx}, f, selfenc.Options{})
		if err != nil {
			return err
		}
		b, err := m.Encode(selfenc.MapV1)
		if err != nil {
			return err
		}
		return give(b, mapOut, mapSize)
	}(), text)
}

// selfenc_decrypt_file asks get for chunks and writes a file, which gets its
// name when it is whole.
//
//export selfenc_decrypt_file
func selfenc_decrypt_file(encoding C.int, dataMap unsafe.Pointer, mapSize C.size_t, path *C.char, get C.selfenc_get, ctx unsafe.Pointer, text **C.char) C.int {
	return result(func() error {
		if path == nil || get == nil {
			return errors.New("no path, or no function")
		}
		m, err := decodeMap(dataMap, mapSize)
		if err != nil {
			return err
		}
		e, store := selfenc.Encoding(encoding), &callbacks{get: get, context: ctx, index: map[selfenc.Name]uint64{}}
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
		return writeFile(C.GoString(path), r)
	}(), text)
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
func selfenc_map_convert(dataMap unsafe.Pointer, mapSize C.size_t, form *C.char, out *unsafe.Pointer, outSize *C.size_t, text **C.char) C.int {
	return result(func() error {
		if form == nil {
			return fmt.Errorf("%w: no form", selfenc.ErrEncoding)
		}
		m, err := decodeMap(dataMap, mapSize)
		if err != nil {
			return err
		}
		f, err := selfenc.ParseMapForm(C.GoString(form))
		if err != nil {
			return err
		}
		b, err := m.Encode(f)
		if err != nil {
			return err
		}
		return give(b, out, outSize)
	}(), text)
}

// selfenc_name writes the name of a stored chunk.
//
//export selfenc_name
func selfenc_name(encoding C.int, data unsafe.Pointer, size C.size_t, name unsafe.Pointer, text **C.char) C.int {
	return result(func() error {
		b, err := bytesOf(data, size)
		if err != nil {
			return err
		}
		if name == nil {
			return errors.New("no place for the result")
		}
		*(*selfenc.Name)(name) = selfenc.Encoding(encoding).NameOf(b)
		return nil
	}(), text)
}
