// Command libselfenc is a C library for self-encryption in the reference implementation's
// encodings. The Python package in python/ uses it, and other languages can.
//
// `make libselfenc` builds it as a shared and a static library with the header selfenc.h. There are
// no handles: each call is independent. NULL for a required argument and unknown encodings are
// errors. Callbacks run on the thread of the caller (callbacks).
package main

/*
#include <stdlib.h>
#define SELFENC_NO_PROTOTYPES // cgo generates them; a test compiles both together
#include "selfenc.h"

// cgo uses these names in the prototypes that it generates.
typedef const char text_t;
typedef const uint8_t bytes_t;
*/
import "C"

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"unsafe"

	"github.com/sealvol/sealvol/pkg/selfenc"
)

func main() {}

// errEncoding is separate from selfenc.ErrEncoding, which is also the error of unknown map forms.
var errEncoding = errors.New("unknown encoding")

// encodingOf returns an encoding of the reference implementation. It refuses all others.
func encodingOf(n C.int) (selfenc.Encoding, error) {
	for _, e := range []selfenc.Encoding{selfenc.SE31, selfenc.SE36} {
		if n == C.int(e) {
			return e, nil
		}
	}
	return 0, fmt.Errorf("%w %d: must be 31 or 36", errEncoding, int(n))
}

// optionsOf returns the options of encryption.
func optionsOf(chunkSize C.size_t, mapForm *C.text_t) (o selfenc.Options, err error) {
	if chunkSize > math.MaxInt32 {
		return o, fmt.Errorf("%w: %d bytes", selfenc.ErrInvalidChunkSize, uint64(chunkSize))
	}
	o.ChunkBytes = int(chunkSize)
	if mapForm != nil {
		o.MapForm, err = selfenc.ParseMapForm(goString(mapForm))
	}
	return o, err
}

// result returns the code of an error, and sets text to its message.
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
	return codeOf(err)
}

var errNoFunction = errors.New("the path or the callback is NULL")

//export selfenc_free
func selfenc_free(p unsafe.Pointer) { C.free(p) }

// selfenc_encrypt encrypts size bytes. It returns the map in its newest form, and the chunks one
// after the other, each after its length as a little-endian u64.
//
//export selfenc_encrypt
func selfenc_encrypt(encoding C.int, chunkSize C.size_t, mapForm *C.text_t, data *C.bytes_t, size C.size_t, mapOut **C.uint8_t, mapSize *C.size_t, chunksOut **C.uint8_t, chunksSize *C.size_t, text **C.char) C.int {
	return result(text, func() error {
		mapTo, chunksTo := output{mapOut, mapSize}, output{chunksOut, chunksSize}
		if err := outputs(mapTo, chunksTo); err != nil {
			return err
		}
		e, err := encodingOf(encoding)
		if err != nil {
			return err
		}
		o, err := optionsOf(chunkSize, mapForm)
		if err != nil {
			return err
		}
		plain, err := bytesOf(data, size)
		if err != nil {
			return err
		}
		m, chunks, err := selfenc.Encrypt(e, plain, o)
		if err != nil {
			return err
		}
		if err := mapTo.giveMap(m); err != nil {
			return err
		}
		chunksTo.give(pack(chunks))
		return nil
	})
}

// selfenc_decrypt decrypts the result of selfenc_encrypt. The chunks may be in any order.
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
		return to.giveAll(context.Background(), r)
	})
}

// giveAll decrypts into memory.
func (o output) giveAll(ctx context.Context, r *selfenc.Reader) error {
	if r.Size() > math.MaxInt32 {
		return fmt.Errorf("%w: cannot return %d bytes at once", selfenc.ErrTooLarge, r.Size())
	}
	var plain bytes.Buffer // it grows with the verified chunks, because the size in the map is not trusted
	if err := r.Copy(ctx, &plain, 0, r.Size()); err != nil {
		return err
	}
	o.give(plain.Bytes())
	return nil
}

// selfenc_decrypt_store decrypts into memory. It calls get for each chunk.
//
//export selfenc_decrypt_store
func selfenc_decrypt_store(encoding C.int, dataMap *C.bytes_t, mapSize C.size_t, get C.selfenc_get, user unsafe.Pointer, dataOut **C.uint8_t, dataSize *C.size_t, text **C.char) C.int {
	return result(text, func() error {
		to := output{dataOut, dataSize}
		if err := outputs(to); err != nil {
			return err
		}
		return withMap(encoding, dataMap, mapSize, nil, get, user, func(ctx context.Context, e selfenc.Encoding, m *selfenc.DataMap, c *callbacks) error {
			r, err := c.read(ctx, e, m)
			if err != nil {
				return err
			}
			return to.giveAll(ctx, r)
		})
	})
}

// withMap checks the arguments of functions that take a map and a store with put or get. It runs
// work and meanwhile serves the store.
func withMap(encoding C.int, dataMap *C.bytes_t, mapSize C.size_t, put C.selfenc_put, get C.selfenc_get, user unsafe.Pointer,
	work func(context.Context, selfenc.Encoding, *selfenc.DataMap, *callbacks) error) error {
	if put == nil && get == nil {
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
	c := newCallbacks(put, get, user)
	return c.serve(func(ctx context.Context) error { return work(ctx, e, m, c) })
}

// selfenc_encrypt_file encrypts a file with bounded memory, and passes each chunk to put.
//
//export selfenc_encrypt_file
func selfenc_encrypt_file(encoding C.int, chunkSize C.size_t, mapForm *C.text_t, path *C.text_t, put C.selfenc_put, user unsafe.Pointer, mapOut **C.uint8_t, mapSize *C.size_t, text **C.char) C.int {
	return result(text, func() error {
		to := output{mapOut, mapSize}
		if err := outputs(to); err != nil {
			return err
		}
		e, err := encodingOf(encoding)
		if err != nil {
			return err
		}
		o, err := optionsOf(chunkSize, mapForm)
		if err != nil {
			return err
		}
		if path == nil || put == nil {
			return errNoFunction
		}
		name, c := goString(path), newCallbacks(put, nil, user)
		return c.serve(func(ctx context.Context) error {
			m, err := encryptFile(ctx, e, c, name, o)
			if err != nil {
				return err
			}
			return to.giveMap(m)
		})
	})
}

// selfenc_decrypt_file calls get for each chunk and writes a file, which gets its name only when it
// is complete.
//
//export selfenc_decrypt_file
func selfenc_decrypt_file(encoding C.int, dataMap *C.bytes_t, mapSize C.size_t, path *C.text_t, get C.selfenc_get, user unsafe.Pointer, text **C.char) C.int {
	return result(text, func() error {
		if path == nil {
			return errNoFunction
		}
		name := goString(path)
		return withMap(encoding, dataMap, mapSize, nil, get, user, func(ctx context.Context, e selfenc.Encoding, m *selfenc.DataMap, c *callbacks) error {
			r, err := c.read(ctx, e, m)
			if err != nil {
				return err
			}
			return writeFile(ctx, name, r)
		})
	})
}

// selfenc_shrink encrypts a map of more than three chunks, and passes the new chunks to put.
//
//export selfenc_shrink
func selfenc_shrink(encoding C.int, mapForm *C.text_t, dataMap *C.bytes_t, mapSize C.size_t, put C.selfenc_put, user unsafe.Pointer, mapOut **C.uint8_t, mapOutSize *C.size_t, text **C.char) C.int {
	return result(text, func() error {
		to := output{mapOut, mapOutSize}
		if err := outputs(to); err != nil {
			return err
		}
		o, err := optionsOf(0, mapForm)
		if err != nil {
			return err
		}
		return withMap(encoding, dataMap, mapSize, put, nil, user, func(ctx context.Context, e selfenc.Encoding, m *selfenc.DataMap, c *callbacks) error {
			m, err := selfenc.Shrink(ctx, e, c, m, o)
			if err != nil {
				return err
			}
			return to.giveMap(m)
		})
	})
}

// selfenc_root_map returns the map of the data itself.
//
//export selfenc_root_map
func selfenc_root_map(encoding C.int, dataMap *C.bytes_t, mapSize C.size_t, get C.selfenc_get, user unsafe.Pointer, mapOut **C.uint8_t, mapOutSize *C.size_t, text **C.char) C.int {
	return result(text, func() error {
		to := output{mapOut, mapOutSize}
		if err := outputs(to); err != nil {
			return err
		}
		return withMap(encoding, dataMap, mapSize, nil, get, user, func(ctx context.Context, e selfenc.Encoding, m *selfenc.DataMap, c *callbacks) error {
			root, err := c.root(ctx, e, m)
			if err != nil {
				return err
			}
			return to.giveMap(root)
		})
	})
}

// selfenc_map_convert reads a map in any form and writes it in the given form: "v0", "v0c", "v1" or
// "json".
//
//export selfenc_map_convert
func selfenc_map_convert(dataMap *C.bytes_t, mapSize C.size_t, form *C.text_t, out **C.uint8_t, outSize *C.size_t, text **C.char) C.int {
	return result(text, func() error {
		to := output{out, outSize}
		if err := outputs(to); err != nil {
			return err
		}
		if form == nil {
			return fmt.Errorf("%w: the form is NULL", selfenc.ErrEncoding)
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

// selfenc_name computes the name of a stored chunk.
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
			return errors.New("a result pointer is NULL")
		}
		*(*selfenc.Name)(unsafe.Pointer(name)) = e.NameOf(b)
		return nil
	})
}
